"""Quality: a promise about frames, asked for when a world is loaded and kept by its threshold."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from .calibration import CalibrationSpec, RiskBound
from .errors import QualityError
from .spec import WorldSpec


@dataclass(frozen=True)
class Quality:
    """At most a share `alpha` of the frames further than `delta` from the full schedule's.

    The distance of a frame is measured from what the full schedule would have drawn in its place: with the same past,
    action and noise. The world's package brings thresholds that were tested for such promises on held-out recordings
    (`WorldSpec.calibration.bounds`); of those that imply what is asked for, the one with the fewest steps is taken.

    It is a promise about the mean over many ticks, and it is given up by

    - a tick that its budget cuts short: `tick.stopped_by` is `budget` or `deadline`, and its confidence lies below its
      threshold. Such a frame counts as one of the alpha. So does one that `max_steps` cuts short (`ceiling`);
    - a threshold, policy or soft target that is set by hand, on the session or with `step(steps=...)`, and one that
      came with a snapshot: a restored session keeps the threshold under which it was made;
    - situations that are unlike the recordings: other start contexts than the package's, actions that nobody played,
      or rollouts that have drifted far. The bound was tested on short rollouts from recorded starts under recorded
      actions. `RiskBound.checked` says how it did on recordings that had no part in choosing it.
    """

    alpha: float = 0.05
    """Share of frames, in (0, 1)."""
    delta: float | None = None
    """In the unit of the calibration (`delta_unit`); None for the world's own."""

    def __post_init__(self) -> None:
        if not _is_number(self.alpha) or not 0 < self.alpha < 1:
            raise QualityError(f"quality.alpha: must be a share in (0, 1), for example 0.05, got {self.alpha!r}")
        if self.delta is not None and not (_is_number(self.delta) and 0 < self.delta < math.inf):
            raise QualityError(f"quality.delta: must be positive or None, got {self.delta!r}")

    @staticmethod
    def of(value: Quality | float) -> Quality:
        """`value` itself, or the quality with this alpha."""
        return value if isinstance(value, Quality) else Quality(value)

    def bound(self, spec: WorldSpec) -> RiskBound:
        """The cheapest of the world's bounds that implies this. Raises `QualityError` that says what there is."""
        calibration, world = spec.calibration, f"{spec.name} {spec.version}"
        if not calibration.bounds:
            raise QualityError(
                f"quality: {world} comes without risk bounds; leave quality out, or give a session a threshold"
            )
        delta = calibration.delta if self.delta is None else self.delta
        implied_by = [b for b in calibration.bounds if b.alpha <= self.alpha and b.delta <= delta]
        if not implied_by:
            raise QualityError(
                f"quality: {world} promises nothing as strict as alpha = {self.alpha:g} within delta = {delta:g}; it"
                f" offers {_offers(calibration)}"
            )
        return min(implied_by, key=lambda b: (b.mean_steps, b.alpha, b.delta))


def with_default(spec: WorldSpec, bound: RiskBound) -> WorldSpec:
    """The spec with the bound's threshold as the world's default."""
    calibration = dataclasses.replace(spec.calibration, default_threshold=bound.threshold)
    return dataclasses.replace(spec, calibration=calibration)


def _offers(calibration: CalibrationSpec) -> str:
    offers = []
    for delta in sorted({bound.delta for bound in calibration.bounds}):
        alphas = sorted(bound.alpha for bound in calibration.bounds if bound.delta == delta)
        offers.append(f"alpha = {', '.join(f'{alpha:g}' for alpha in alphas)} within delta = {delta:g}")
    return "; ".join(offers)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
