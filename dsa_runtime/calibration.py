"""Calibration: what a world says about its confidence, as a part of its spec.

How sure a frame is, what more steps would still change, what a threshold costs, and which thresholds keep a promise.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass

from .errors import WorldError


@dataclass(frozen=True)
class Curve:
    """A piecewise-linear map from the confidence head's logit to `value`; constant outside its knots."""

    logit: tuple[float, ...]
    value: tuple[float, ...]

    def __post_init__(self) -> None:
        _check(len(self.logit) >= 1, "logit", "must hold at least one knot")
        _check(len(self.value) == len(self.logit), "value", "must hold as many values as logit")
        _check(all(map(math.isfinite, self.logit + self.value)), "logit", "knots must be finite")
        rising = all(a < b for a, b in zip(self.logit, self.logit[1:], strict=False))
        _check(rising, "logit", "knots must rise strictly")

    def __call__(self, logit: float) -> float:
        """The value at `logit`, linear between knots."""
        xs, ys = self.logit, self.value
        right = bisect.bisect_right(xs, logit)
        if right == 0:
            return ys[0]
        if right == len(xs):
            return ys[-1]
        share = (logit - xs[right - 1]) / (xs[right] - xs[right - 1])
        return ys[right - 1] + share * (ys[right] - ys[right - 1])


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold, and the mean number of steps it costs on held-out episodes."""

    threshold: float
    mean_steps: float


RISK_ERROR = 0.05
"""The largest chance, for each bound, that its test let a promise pass that does not hold."""


@dataclass(frozen=True)
class CheckedRisk:
    """How a risk bound did on recordings that had no part in choosing it: the third split."""

    violation: float
    """Share of frames that lay further than the bound's delta from the full schedule's."""
    interval: tuple[float, float]
    """95 % confidence interval of that share, over windows of the recordings that were played."""
    rollouts: int
    """Played for this; 0 for the full schedule, which needs no check."""
    recordings: int
    """That they were drawn from."""
    mean_steps: float

    def __post_init__(self) -> None:
        low, high = self.interval
        _check(0 <= self.violation <= 1, "violation", f"must lie in [0, 1], got {self.violation}")
        _check(0 <= low <= self.violation <= high <= 1, "interval", "must hold the violation and lie in [0, 1]")
        _check(self.rollouts >= 0, "rollouts", f"must not be negative, got {self.rollouts}")
        _check(self.recordings >= 0, "recordings", f"must not be negative, got {self.recordings}")
        _check(1 <= self.mean_steps < math.inf, "mean_steps", f"must be at least 1, got {self.mean_steps}")


@dataclass(frozen=True)
class RiskBound:
    """A threshold that was tested to keep a promise: at most `alpha` of the frames lie further than `delta` from
    what the full schedule would have drawn in their place.

    Learn-then-test (Angelopoulos et al. 2021) on held-out rollouts that were played under the threshold; the chance
    that the promise does not hold for rollouts from the same recordings is at most `RISK_ERROR`. How far it carries
    over to other recordings is what `checked` shows.
    """

    alpha: float
    delta: float
    """In the calibration's `delta_unit`."""
    threshold: float
    """1 where nothing cheaper than the full schedule passed the test."""
    mean_steps: float
    violation: float
    """Share of frames that lay further than delta in the test itself."""
    rollouts: int
    """Played for the test; 0 for the full schedule, which needs none."""
    recordings: int
    """That they were drawn from."""
    p_value: float
    """Of 'the violation exceeds alpha'."""
    checked: CheckedRisk

    def __post_init__(self) -> None:
        _check(0 < self.alpha < 1, "alpha", f"must lie in (0, 1), got {self.alpha}")
        _check(math.isfinite(self.delta) and self.delta > 0, "delta", f"must be positive, got {self.delta}")
        _check(0 <= self.threshold <= 1, "threshold", f"must lie in [0, 1], got {self.threshold}")
        _check(1 <= self.mean_steps < math.inf, "mean_steps", f"must be at least 1, got {self.mean_steps}")
        _check(0 <= self.violation <= self.alpha, "violation", f"must lie in [0, alpha], got {self.violation}")
        _check(self.rollouts >= 0, "rollouts", f"must not be negative, got {self.rollouts}")
        _check(self.recordings >= 0, "recordings", f"must not be negative, got {self.recordings}")
        _check(0 <= self.p_value <= RISK_ERROR, "p_value", f"must lie in [0, {RISK_ERROR}], got {self.p_value}")


@dataclass(frozen=True)
class CalibrationSpec:
    """What the confidence head's output means after denoising steps 1..K-1 (after step K nothing is left)."""

    delta: float
    """After the first step; after the others too, unless `delta_by_step` says otherwise."""
    delta_unit: str
    default_threshold: float
    within_delta: tuple[Curve, ...]
    """Probability that the frame is within the step's delta of the full schedule's: the confidence users see."""
    benefit: tuple[Curve, ...]
    """Expected change that the remaining steps would still make, in `delta_unit`."""
    thresholds: tuple[OperatingPoint, ...]
    bounds: tuple[RiskBound, ...] = ()
    """Thresholds that keep a promise, one per alpha and delta; worlds may come without."""
    delta_by_step: tuple[float, ...] = ()
    """The delta of each curve of `within_delta`, beginning with `delta`; empty where it is `delta` for all. A later
    step's is larger where a further step brings less for the same distance."""

    def __post_init__(self) -> None:
        _check(math.isfinite(self.delta) and self.delta > 0, "delta", f"must be positive, got {self.delta}")
        _check(0 <= self.default_threshold <= 1, "default_threshold", "must lie in [0, 1]")
        for index, curve in enumerate(self.within_delta):
            inside = min(curve.value) >= 0 and max(curve.value) <= 1
            _check(inside, f"within_delta[{index}].value", "probabilities must lie in [0, 1]")
        levels = [point.threshold for point in self.thresholds]
        steps = [point.mean_steps for point in self.thresholds]
        inside = all(0 <= level <= 1 for level in levels) and all(1 <= mean < math.inf for mean in steps)
        _check(inside, "thresholds", "thresholds must lie in [0, 1], mean_steps must be at least 1")
        rising = sorted(set(levels)) == levels and sorted(steps) == steps
        _check(rising, "thresholds", "thresholds must rise strictly, and mean_steps must not fall")
        self._check_delta_by_step()
        promises = {(bound.alpha, bound.delta) for bound in self.bounds}
        _check(len(promises) == len(self.bounds), "bounds", "alpha and delta of two of them are the same")
        certain = any(max(curve.value) >= 1 for curve in self.within_delta)
        _check(
            not (self.bounds and certain),
            "within_delta",
            "with bounds, probabilities must stay below 1, so that threshold 1 is the full schedule",
        )

    @property
    def deltas(self) -> tuple[float, ...]:
        """Of all steps but the last: how near to the full schedule's frame each step's confidence is about."""
        return self.delta_by_step or (self.delta,) * len(self.within_delta)

    def _check_delta_by_step(self) -> None:
        deltas, needed = self.delta_by_step, len(self.within_delta)
        if not deltas:
            return
        _check(len(deltas) == needed, "delta_by_step", f"needs one per curve of within_delta: {needed}")
        positive = all(math.isfinite(delta) and delta > 0 for delta in deltas)
        _check(positive, "delta_by_step", f"must be positive, got {list(deltas)}")
        _check(deltas[0] == self.delta, "delta_by_step", f"must begin with delta, {self.delta}, got {deltas[0]}")

    def confidence(self, step: int, logit: float) -> float:
        """Calibrated confidence after step `step`, from the head's output; 1 after the last step."""
        return self.within_delta[step - 1](logit) if step <= len(self.within_delta) else 1.0


def _check(condition: bool, field: str, problem: str) -> None:
    if not condition:
        raise WorldError(f"{field}: {problem}")
