"""Verdicts: from the measured cost of full ticks to what holds at a rate. Pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .diagnosis import Fit, Verdict

RATES_HZ = (20.0, 24.0, 30.0, 50.0, 60.0, 120.0)
HOLDS_AT = 0.999
_DOUBT = 0.05


@dataclass(frozen=True)
class TickCost:
    """What one tick with the full schedule cost, in milliseconds."""

    denoise: tuple[float, ...]
    decode: float
    sdk: float
    commit: float
    """From the return of the frame until the session could take the next action."""

    def total(self, steps: int) -> float:
        """Cost of the same tick had it stopped after `steps` denoising steps, its commit included.

        The commit runs after the frame was returned, but a rate lasts only if it too ends before the next tick.
        """
        return sum(self.denoise[:steps]) + self.decode + self.sdk + self.commit


def rates(native_hz: float) -> tuple[float, ...]:
    """The rates to judge: the world's own and the usual ones, rising."""
    others = (rate for rate in RATES_HZ if not math.isclose(rate, native_hz, rel_tol=1e-3))
    return tuple(sorted((native_hz, *others)))


def judge(costs: Sequence[TickCost], rate_hz: float, guard_ms: float, loaded: bool) -> Verdict:
    """What these ticks say about a rate. At least one tick."""
    period_ms, ticks = 1000.0 / rate_hz, len(costs)
    fits = []
    for steps in range(1, len(costs[0].denoise) + 1):
        fitting = sum(cost.total(steps) + guard_ms <= period_ms for cost in costs)
        fits.append(Fit(steps, fitting, fitting / ticks, lower_bound(fitting, ticks)))
    holds = max((fit.steps for fit in fits if fit.share >= HOLDS_AT), default=0)
    return Verdict(rate_hz, loaded, ticks, holds, tuple(fits))


def lower_bound(fitting: int, ticks: int) -> float:
    """Lower 95 % confidence bound of a share of which `fitting` of `ticks` were seen (Clopper-Pearson).

    The share at which so many or more would be seen with a probability of 5 %; `0.05 ** (1 / ticks)` if all fit.
    """
    if fitting == 0:
        return 0.0
    seen = np.arange(fitting, ticks + 1)
    log_factorial = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, ticks + 1)))))
    log_ways = log_factorial[ticks] - log_factorial[seen] - log_factorial[ticks - seen]
    low, high = 0.0, 1.0
    for _ in range(50):
        share = (low + high) / 2
        chance = np.exp(log_ways + seen * math.log(share) + (ticks - seen) * math.log1p(-share)).sum()
        low, high = (share, high) if chance < _DOUBT else (low, share)
    return low


def ticks_to_prove(share: float = HOLDS_AT) -> int:
    """Ticks without a miss after which `lower_bound` reaches a share."""
    return math.ceil(math.log(_DOUBT) / math.log(share))


def choose_threads(p90_ms: dict[int, float]) -> int:
    """The thread count with the cheapest tick at the 90th percentile; the fewest of those within 5 % of it.

    Not by a higher percentile: of some hundred ticks that would be a single bad moment.
    """
    best = min(p90_ms.values())
    return min(threads for threads, cost in p90_ms.items() if cost <= 1.05 * best)


def guard_ms(late_p99_ms: float, period_ms: float) -> float:
    """Time to keep free before a deadline on a machine that wakes a timed wait this late.

    Rounded up to 0.1 ms; at least 0.5 ms, and at most a tenth of the period: on a machine so bad that it would
    take more, some misses are better than no steps.
    """
    return min(max(math.ceil(late_p99_ms * 10 - 1e-9) / 10, 0.5), max(period_ms / 10, 0.5))
