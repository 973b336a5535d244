"""LatencyModel: what each stage of a tick has cost lately, as quantiles."""

from __future__ import annotations

import bisect
import math
import re
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_KEY = re.compile(r"([a-z]+)(?: ([1-9][0-9]{0,3}))?")
_EXPORTED = 100
_GOLDEN = 0.618034  # its multiples, modulo 1, cover the interval evenly at every length
_PAUSES_IN_A_ROW = 2


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

    def representative(self, most: int) -> list[float]:
        """Up to `most` of the values, rising: all of them, or evenly spaced nearest-rank quantiles, 1.0 the last."""
        count = len(self._sorted)
        if count <= most:
            return list(self._sorted)
        return [self._sorted[-(-rank * count // most) - 1] for rank in range(1, most + 1)]


@dataclass
class _Stage:
    costs: SlidingQuantile
    seen: int = 0
    typical_ms: float = math.inf
    """The cheapest sample of the warm-up: what a pause is told by until there is a median."""
    slow: int = 0
    """Samples in a row that looked like pauses."""


@dataclass(frozen=True)
class Costs:
    """What a tick is expected to cost; None where nothing is known."""

    denoise_ms: tuple[float | None, ...]
    """Per denoising step: `denoise_ms[k]` is that of step k + 1."""
    decode_ms: float | None


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
    debugger held the process, or a laptop slept, and that says nothing about the next tick. From the third in
    a row on they are a slow-down that lasts, and enter until it ends.

    Safe to use from several threads: sessions forked from one another share what they measure.
    """

    window: int = 240
    warmup: int = 3
    pause_factor: float = 20.0
    _stages: dict[tuple[str, int], _Stage] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def record(self, stage: str, cost_ms: float, step: int = 0) -> None:
        """Enter one measured cost. `step` counts denoising steps from 1; 0 for stages that have none."""
        with self._lock:
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
        with self._lock:
            whole = self._quantile((stage, 0), q)
            if not step:
                return whole
            own = self._quantile((stage, step), q)
        if own is None or whole is None:
            return whole
        return min(own, whole)

    def costs(self, step_q: float, decode_q: float, steps: int) -> Costs:
        """Every quantile that a tick of up to `steps` denoising steps is judged by."""
        denoise_ms = tuple(self.quantile("denoise", step_q, step) for step in range(1, steps + 1))
        return Costs(denoise_ms, self.quantile("decode", decode_q))

    def summary(self) -> dict[str, StageCost]:
        """Quantiles keyed "decode", "commit", "denoise" (all steps), "denoise 1", "denoise 2", ..."""
        with self._lock:
            return {
                name: StageCost(len(costs), *(costs.quantile(q) for q in (0.5, 0.9, 0.99)))
                for name, costs in self._named()
            }

    def export(self) -> dict[str, list[float]]:
        """Up to 100 representative costs in ms per key of `summary`, for `prime` in a later process."""
        with self._lock:
            return {name: costs.representative(_EXPORTED) for name, costs in self._named()}

    def prime(self, costs: Mapping[str, Sequence[float]]) -> None:
        """Enter costs in ms that were measured before, keyed and shaped as `export` returns them.

        Stages that get some have no warm-up any more. Steps ("denoise 1") without their stage ("denoise") count
        for the stage too. Raises `ValueError`, and has then entered nothing, if a key or a cost is not one.
        """
        entered: dict[tuple[str, int], list[float]] = {}
        for name, values in costs.items():
            match = _KEY.fullmatch(name) if isinstance(name, str) else None
            if match is None:
                raise ValueError(f"{name!r}: expected a stage or a stage and its step, such as 'denoise 2'")
            entered[match[1], int(match[2] or 0)] = _checked(name, values)
        for stage in {stage for stage, step in entered if step and (stage, 0) not in entered}:
            entered[stage, 0] = [cost for (of, _), values in entered.items() if of == stage for cost in values]
        with self._lock:
            for key, values in entered.items():
                if values:
                    entry = self._entry(key)
                    entry.seen = max(entry.seen, self.warmup)
                    # Spread out: they come sorted, and would leave the window from the cheap end.
                    for index in sorted(range(len(values)), key=lambda index: index * _GOLDEN % 1):
                        entry.costs.add(values[index])

    def _named(self) -> list[tuple[str, SlidingQuantile]]:
        return [
            (f"{stage} {step}" if step else stage, entry.costs)
            for (stage, step), entry in sorted(self._stages.items(), key=lambda item: item[0])
            if len(entry.costs)
        ]

    def _entry(self, key: tuple[str, int]) -> _Stage:
        entry = self._stages.get(key)
        if entry is None:
            entry = self._stages[key] = _Stage(SlidingQuantile(self.window))
        return entry

    def _record(self, key: tuple[str, int], cost_ms: float, warmup: int) -> None:
        entry = self._entry(key)
        entry.seen += 1
        if entry.seen <= warmup:
            entry.typical_ms = min(entry.typical_ms, cost_ms)
            return
        typical_ms = entry.costs.quantile(0.5) if len(entry.costs) else entry.typical_ms
        if cost_ms > self.pause_factor * typical_ms:
            entry.slow += 1
            if entry.slow <= _PAUSES_IN_A_ROW:
                return
        else:
            entry.slow = 0
        entry.costs.add(cost_ms)

    def _quantile(self, key: tuple[str, int], q: float) -> float | None:
        entry = self._stages.get(key)
        return entry.costs.quantile(q) if entry and len(entry.costs) else None


def _checked(name: str, values: Sequence[float]) -> list[float]:
    try:
        given = list(values)
        costs = [float(value) for value in given if not isinstance(value, (str, bool))]
    except (TypeError, ValueError):
        given, costs = [], [math.nan]
    if len(costs) != len(given) or not all(math.isfinite(cost) and cost >= 0 for cost in costs):
        raise ValueError(f"{name}: expected costs in ms, finite and not negative, got {values!r}")
    return costs
