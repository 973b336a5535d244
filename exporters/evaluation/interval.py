"""Means with their uncertainty. The unit is the case, or a cluster of cases that are alike.

Seeds and horizons of a case are averaged first.

Where several trainings were measured on the same cases, both trainings and cases are samples: of all trainings that a
recipe could give, and of all moments that a world could be in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binomtest
from scipy.stats import t as student

_BLOCK = 15
_FEWEST = 10


@dataclass(frozen=True)
class Interval:
    """A mean over cases, its standard error, and its 95 % interval."""

    mean: float
    standard_error: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """-1 or +1 where the whole interval lies on one side of zero, else 0."""
        return int(self.low > 0) - int(self.high < 0)

    def within(self, low: float, high: float) -> Interval:
        """The same with ends that are possible."""
        return replace(self, low=float(np.clip(self.low, low, high)), high=float(np.clip(self.high, low, high)))


NOTHING = Interval(*(float("nan"),) * 4)


def per_case(values: np.ndarray) -> np.ndarray:
    """float64[B, ...] -> float64[B]."""
    mean: np.ndarray = values.reshape(len(values), -1).mean(axis=1)
    return mean


def neighbours(recording: np.ndarray) -> np.ndarray:
    """Cluster int64[B] of each case, from the recording int64[B] it comes from; cases of one are in order of time.

    Cases of one recording are alike, the more so the nearer they are. With ten recordings or more each is a cluster.
    With fewer, each is cut into stretches of up to 15 cases: less where there would not be ten in all, down to one.
    """
    names, found = np.unique(recording, return_inverse=True)
    if len(names) >= _FEWEST:
        return np.asarray(found, dtype=np.int64)
    length = int(np.clip(len(recording) // _FEWEST, 1, _BLOCK))
    clusters, count = np.empty(len(recording), dtype=np.int64), 0
    for index in range(len(names)):
        for part in np.array_split(rows := np.flatnonzero(found == index), -(-len(rows) // length)):
            clusters[part], count = count, count + 1
    return clusters


def interval(values: np.ndarray, units: np.ndarray | None = None) -> Interval:
    """Of float64[B, ...]; a paired comparison hands in the differences. Otherwise as `pooled_interval` of one."""
    return pooled_interval(per_case(values)[None], units) if len(values) else NOTHING


def pooled_interval(values: np.ndarray, units: np.ndarray | None = None) -> Interval:
    """Of float64[S, B], S trainings measured on the same B cases. units: int64[B], the cluster of each case.

    One case is equally hard for all trainings, so that S trainings are not S times the cases. The variance of the mean
    has a part of the trainings and one of the cases, estimated from the means of trainings, of cases, and what is left.
    One training alone says nothing about others: then it is an interval over cases, of this training. Cases with a NaN
    are left out; without any other all is NaN, and with a single cluster the interval is.
    """
    known = ~np.isnan(values).any(axis=0)
    if not known.any():
        return NOTHING
    mean = float(values[:, known].mean())
    error, half = _error(values[:, known], None if units is None else units[known])
    return Interval(mean, error, mean - half, mean + half)


def pooled_ratio(above: np.ndarray, below: np.ndarray, units: np.ndarray | None = None) -> Interval:
    """Of the means of two float64[S, B] with units as in `pooled_interval`: the ratio of the means, Fieller's interval.

    NaN throughout unless the interval of `below` lies above zero: nothing can be said about shares of nothing, nor of
    a loss. The interval holds every ratio r for which that of `above - r * below` holds zero.
    """
    known = ~(np.isnan(above) | np.isnan(below)).any(axis=0)
    above, below, units = above[:, known], below[:, known], None if units is None else units[known]
    if pooled_interval(below, units).sign <= 0:
        return NOTHING
    ratio = float(above.mean() / below.mean())

    def outside(at: float) -> float:
        """Positive where `at` is not in the interval; at last it is so on both sides, as `below` leaves zero out."""
        gap = above - at * below
        return float(gap.mean() ** 2 - _error(gap, units)[1] ** 2)

    def end(step: float) -> float:
        if outside(ratio) >= 0:
            return ratio
        while outside(ratio + step) <= 0 and abs(step) < 1e9:
            step *= 2
        return float(brentq(outside, ratio, ratio + step)) if abs(step) < 1e9 else float(np.copysign(np.inf, step))

    error = _error((above - ratio * below) / below.mean(), units)[0]
    return Interval(ratio, error, end(-0.1), end(0.1))


def share(hits: np.ndarray) -> dict[str, float]:
    """Of bool[B]: {"share", "low", "high", "cases"} with Wilson's 95 % interval; NaN where there are no cases."""
    count = int(hits.size)
    if count == 0:
        return {"share": float("nan"), "low": float("nan"), "high": float("nan"), "cases": 0}
    bounds = binomtest(int(hits.sum()), count).proportion_ci(method="wilson")
    return {"share": float(hits.mean()), "low": float(bounds.low), "high": float(bounds.high), "cases": count}


def _error(values: np.ndarray, units: np.ndarray | None) -> tuple[float, float]:
    """Standard error of the mean of float64[S, B] without NaN, and half the width of its 95 % interval.

    Each part of the variance is widened by the t quantile of its own degrees of freedom, and the interval is never
    narrower than that over the trainings' means alone. A common quantile after Satterthwaite would rest on how large
    the part of the trainings has come out: of three, now and then by chance as nothing, and too narrow an interval.
    """
    trainings, cases = values.shape
    clusters = np.arange(cases) if units is None else np.unique(units, return_inverse=True)[1]
    count = int(clusters.max()) + 1
    if count < 2:
        return float("nan"), float("nan")

    def scattered(deviations: np.ndarray) -> float:
        """Variance of the mean of float64[B] around 0, from the sums of its clusters."""
        return float(np.square(np.bincount(clusters, deviations)).sum()) * count / (count - 1) / cases**2

    rows, columns = values.mean(axis=1) - values.mean(), values.mean(axis=0) - values.mean()
    of_cases = scattered(columns)
    quantile = float(student.ppf(0.975, count - 1))
    if trainings == 1:
        return float(np.sqrt(of_cases)), quantile * float(np.sqrt(of_cases))
    left = sum(scattered(one - columns) for one in values - values.mean() - rows[:, None])
    # The scatter of the trainings' means holds what is left of each case, which the part of the cases counts already.
    scatter, both = float(rows.var(ddof=1)) / trainings, left / (trainings - 1) / trainings
    own, other = max(scatter - both, 0.0), float(student.ppf(0.975, trainings - 1))
    half = np.sqrt(max(other**2 * own + quantile**2 * of_cases, other**2 * scatter))
    return float(np.sqrt(own + of_cases)), float(half)
