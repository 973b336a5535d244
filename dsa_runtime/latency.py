"""LatencyModel: what each stage of a tick has cost lately, as quantiles."""

from __future__ import annotations

import bisect
import math
from collections import deque
from dataclasses import dataclass, field


class SlidingQuantile:
    """Quantiles of the last `window` values; adding and asking cost microseconds."""

    def __init__(self, window: int) -> None:
        self._recent: deque[float] = deque(maxlen=window)
        self._sorted: list[float] = []

    def __len__(self) -> int:
        return len(self._sorted)

    def add(self, value: float) -> None:
        if len(self._recent) == self._recent.maxlen:
            del self._sorted[bisect.bisect_left(self._sorted, self._recent[0])]
        self._recent.append(value)
        bisect.insort(self._sorted, value)

    def quantile(self, q: float) -> float:
        """Nearest-rank quantile: the smallest value that a share of at least `q` (0..1] does not exceed."""
        return self._sorted[max(math.ceil(q * len(self._sorted)), 1) - 1]


@dataclass
class _Stage:
    costs: SlidingQuantile
    seen: int = 0
    pauses: int = 0
    """Samples in a row that were taken for pauses."""


@dataclass(frozen=True)
class StageCost:
    """Measured cost of one stage over the window, in milliseconds."""

    samples: int
    p50_ms: float
    p90_ms: float
    p99_ms: float


@dataclass
class LatencyModel:
    """Cost per stage ("denoise", "decode", "commit") and, for "denoise", per step index.

    The first `warmup` samples of a stage are not representative (pages not touched, threads not started) and
    are left out. So is a sample of more than `pause_factor` times the median: then the machine stood still, a
    debugger held the process, or a laptop slept, and that says nothing about the next tick. Three in a row
    are a slow-down that lasts, and enter.

    Not locked: one session writes and reads it in turn.
    """

    window: int = 240
    warmup: int = 3
    pause_factor: float = 20.0
    _stages: dict[tuple[str, int], _Stage] = field(default_factory=dict, repr=False)

    def record(self, stage: str, cost_ms: float, step: int = 0) -> None:
        """Enter one measured cost. `step` counts denoising steps from 1; 0 for stages that have none."""
        self._record((stage, 0), cost_ms, self.warmup)
        if step:
            # The stage as a whole has been warmed up by the time a further step is run.
            self._record((stage, step), cost_ms, self.warmup if step == 1 else 0)

    def quantile(self, stage: str, q: float, step: int = 0) -> float | None:
        """Cost in ms that the share `q` of recent runs stayed within; None while nothing is known.

        A step is judged by all steps' costs together when that is cheaper than its own record. All steps run
        the same graph, and only the first one runs in every tick: a later step that was once slow, and was
        therefore not admitted again, would otherwise never get the new samples that clear it.
        """
        whole = self._quantile((stage, 0), q)
        if not step:
            return whole
        own = self._quantile((stage, step), q)
        if own is None or whole is None:
            return whole
        return min(own, whole)

    def summary(self) -> dict[str, StageCost]:
        """Quantiles keyed "decode", "commit", "denoise" (all steps), "denoise 1", "denoise 2", ..."""
        return {
            f"{stage} {step}" if step else stage: StageCost(
                len(entry.costs), *(entry.costs.quantile(q) for q in (0.5, 0.9, 0.99))
            )
            for (stage, step), entry in sorted(self._stages.items())
            if len(entry.costs)
        }

    def _record(self, key: tuple[str, int], cost_ms: float, warmup: int) -> None:
        entry = self._stages.get(key)
        if entry is None:
            entry = self._stages[key] = _Stage(SlidingQuantile(self.window))
        entry.seen += 1
        if entry.seen <= warmup:
            return
        if len(entry.costs) and cost_ms > self.pause_factor * entry.costs.quantile(0.5) and entry.pauses < 2:
            entry.pauses += 1
            return
        entry.pauses = 0
        entry.costs.add(cost_ms)

    def _quantile(self, key: tuple[str, int], q: float) -> float | None:
        entry = self._stages.get(key)
        return entry.costs.quantile(q) if entry and len(entry.costs) else None
