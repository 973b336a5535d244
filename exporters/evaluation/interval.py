"""Means with their uncertainty. The unit that is resampled is the case: its seeds and horizons are averaged first.

Where several trainings were measured on the same cases, trainings and cases are both resampled.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

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


NOTHING = Interval(*(float("nan"),) * 4)


def per_case(values: np.ndarray) -> np.ndarray:
    """float64[B, ...] -> float64[B]."""
    mean: np.ndarray = values.reshape(len(values), -1).mean(axis=1)
    return mean


def interval(values: np.ndarray, seed: int = 0) -> Interval:
    """Of float64[B, ...]; a paired comparison hands in the differences. NaN throughout for an empty batch."""
    cases = per_case(values) if len(values) else np.empty(0)
    count = len(cases)
    if count == 0:
        return NOTHING
    low, high = np.quantile(_weights(count, seed) @ cases, [0.025, 0.975])
    error = float(cases.std(ddof=1) / np.sqrt(count)) if count > 1 else float("nan")
    return Interval(float(cases.mean()), error, float(low), float(high))


def pooled_interval(values: np.ndarray) -> Interval:
    """Of float64[S, B], S trainings measured on the same B cases.

    Trainings and cases are drawn anew, independently of each other: one case is equally hard for all trainings, so
    that S trainings are not S times the cases. One training alone says nothing about others; then only the cases are
    drawn, and the interval is one of this training. Cases with a NaN are left out; without any other all is NaN.
    """
    known = values[:, ~np.isnan(values).any(axis=0)]
    if not known.size:
        return NOTHING
    means = resampled(known)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(known.mean()), float(means.std()), float(low), float(high))


def pooled_ratio(above: np.ndarray, below: np.ndarray) -> Interval:
    """Of the means of two float64[S, B], drawn together as in `pooled_interval`; its mean is the ratio of the means.

    NaN throughout where the interval of `below` holds zero: nothing can be said about shares of nothing.
    """
    known = ~(np.isnan(above) | np.isnan(below)).any(axis=0)
    if pooled_interval(below).sign == 0:
        return NOTHING
    ratios = resampled(above[:, known]) / resampled(below[:, known])
    low, high = np.quantile(ratios, [0.025, 0.975])
    ratio = float(above[:, known].mean() / below[:, known].mean())
    return Interval(ratio, float(ratios.std()), float(low), float(high))


def resampled(values: np.ndarray) -> np.ndarray:
    """Means float64[4000] of float64[S, B] with trainings and cases drawn anew; the same draws for the same shape."""
    trainings, cases = values.shape
    means: np.ndarray = ((_weights(trainings, 1) @ values) * _weights(cases, 0)).sum(axis=1)
    return means


def share(hits: np.ndarray) -> dict[str, float]:
    """Of bool[B]: {"share", "low", "high", "cases"} with Wilson's 95 % interval; NaN where there are no cases."""
    count = int(hits.size)
    if count == 0:
        return {"share": float("nan"), "low": float("nan"), "high": float("nan"), "cases": 0}
    bounds = binomtest(int(hits.sum()), count).proportion_ci(method="wilson")
    return {"share": float(hits.mean()), "low": float(bounds.low), "high": float(bounds.high), "cases": count}


@lru_cache(maxsize=64)
def _weights(count: int, seed: int) -> np.ndarray:
    """float64[4000, count]: the share of each unit in every draw."""
    draws: np.ndarray = np.random.default_rng(seed).multinomial(count, np.full(count, 1.0 / count), _RESAMPLES) / count
    return draws
