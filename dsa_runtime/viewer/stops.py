"""Stops: where the quality slider can stand, from what a world's calibration says.

Quality is a threshold on the confidence, and a session's threshold can be changed between two ticks, so no world is
loaded twice. A world with risk bounds (`Quality`) has a stop at each: there its promise holds, and is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..calibration import CalibrationSpec, RiskBound
from ..spec import WorldSpec

_BETWEEN = 16
"""Stops of the calibration table that are kept, evenly over what they cost."""


@dataclass(frozen=True)
class Stop:
    """A threshold, and what it comes to."""

    threshold: float
    mean_steps: float
    """Expected, from the calibration table."""
    promise: str
    """Of the risk bounds that were tested at this threshold; empty without."""
    is_default: bool


def stops_of(spec: WorldSpec) -> tuple[Stop, ...]:
    """By rising threshold: from one step to the whole schedule, with the world's default and its bounds."""
    calibration, steps = spec.calibration, spec.schedule.steps
    thresholds = {0.0, 1.0, calibration.default_threshold, *(bound.threshold for bound in calibration.bounds)}
    exact = set(thresholds)
    for wanted in np.linspace(1.0, steps, _BETWEEN + 2)[1:-1]:
        near = min(calibration.thresholds, key=lambda point: abs(point.mean_steps - wanted), default=None)
        # A stop beside one that is kept anyway cannot be told from it on the slider.
        if near is not None and all(abs(near.threshold - kept) > 0.01 for kept in exact):
            thresholds.add(near.threshold)
    return tuple(
        Stop(
            threshold,
            expected_steps(calibration, steps, threshold),
            promise([bound for bound in calibration.bounds if bound.threshold == threshold]),
            threshold == calibration.default_threshold,
        )
        for threshold in sorted(thresholds)
    )


def expected_steps(calibration: CalibrationSpec, steps: int, threshold: float) -> float:
    """Mean steps under a threshold, linear between the table's points; 0 costs one step and 1 all of them."""
    table = {0.0: 1.0, 1.0: float(steps)} | {point.threshold: point.mean_steps for point in calibration.thresholds}
    thresholds = sorted(table)
    return float(np.interp(threshold, thresholds, [table[known] for known in thresholds]))


def promise(bounds: Sequence[RiskBound]) -> str:
    """What these bounds of one threshold come to, in words."""
    said = [f"at most {bound.alpha:.3g} of the frames further than {bound.delta:.3g}" for bound in bounds]
    return "; ".join(said) + " from the whole schedule's" if said else ""
