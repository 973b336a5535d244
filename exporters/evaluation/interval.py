"""Means with their uncertainty. The unit that is resampled is the case: its seeds and horizons are averaged first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

_RESAMPLES = 4000


@dataclass(frozen=True)
class Interval:
    """A mean over cases, its standard error, and the bootstrap's 95 % interval."""

    mean: float
    standard_error: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """-1 or +1 where the whole interval lies on one side of zero, else 0."""
        return int(self.low > 0) - int(self.high < 0)


def per_case(values: np.ndarray) -> np.ndarray:
    """float64[B, ...] -> float64[B]."""
    mean: np.ndarray = values.reshape(len(values), -1).mean(axis=1)
    return mean


def interval(values: np.ndarray, seed: int = 0) -> Interval:
    """Of float64[B, ...]; a paired comparison hands in the differences. NaN throughout for an empty batch."""
    cases = per_case(values) if len(values) else np.empty(0)
    count = len(cases)
    if count == 0:
        return Interval(*(float("nan"),) * 4)
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1.0 / count), _RESAMPLES)
    low, high = np.quantile(weights @ cases / count, [0.025, 0.975])
    error = float(cases.std(ddof=1) / np.sqrt(count)) if count > 1 else float("nan")
    return Interval(float(cases.mean()), error, float(low), float(high))


def share(hits: np.ndarray) -> dict[str, float]:
    """Of bool[B]: {"share", "low", "high", "cases"} with Wilson's 95 % interval; NaN where there are no cases."""
    count = int(hits.size)
    if count == 0:
        return {"share": float("nan"), "low": float("nan"), "high": float("nan"), "cases": 0}
    bounds = binomtest(int(hits.sum()), count).proportion_ci(method="wilson")
    return {"share": float(hits.mean()), "low": float(bounds.low), "high": float(bounds.high), "cases": count}
