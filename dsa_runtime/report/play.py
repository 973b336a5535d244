"""Play: the measured record of one play-through, and its summary as plain JSON values."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..latency import StageCost
from ..spec import WorldSpec
from ..tick import Tick

STAGES = ("wait", "denoise", "decode", "sdk")
"""The stages of a tick in the order they are run; together they make `total`."""


@dataclass(frozen=True)
class Play:
    """Consecutive ticks of one session."""

    spec: WorldSpec
    seed: int
    budget_ms: float
    actions: tuple[str, ...]
    """What the player did in each tick, in words."""
    ticks: tuple[Tick, ...]
    wall_s: float
    """From the first call to the last return, with everything the caller did in between."""
    commit: StageCost | None
    """Cost of committing a frame, which runs after the tick; None if the session measured none."""

    @property
    def steps(self) -> np.ndarray:
        """`int64[ticks]`, denoising steps."""
        return np.array([tick.steps for tick in self.ticks])

    @property
    def confidence(self) -> np.ndarray:
        """`float64[ticks]`."""
        return np.array([tick.confidence for tick in self.ticks])

    @property
    def threshold(self) -> np.ndarray:
        """`float64[ticks]`, NaN where the policy had none."""
        return np.array([math.nan if tick.threshold is None else tick.threshold for tick in self.ticks])

    @property
    def late(self) -> np.ndarray:
        """`bool[ticks]`: the tick missed its budget, in whatever way its status says."""
        return np.array([tick.status != "ok" for tick in self.ticks])

    def stage_ms(self, stage: str) -> np.ndarray:
        """`float64[ticks]`, the cost of a stage ("denoise": of all steps, an abandoned one too) or "total"."""
        if stage == "denoise":
            costs = [sum(tick.latency_ms["denoise"]) + tick.latency_ms["abandoned"] for tick in self.ticks]
            return np.array(costs, np.float64)
        values: list[Any] = [dict(tick.latency_ms)[stage] for tick in self.ticks]
        return np.array(values, np.float64)

    def summary(self) -> dict[str, Any]:
        """The report of `dsa demo`, as plain JSON values."""
        steps, late = self.steps, self.late
        schedule = self.spec.schedule.steps
        per_step = [cost for tick in self.ticks for cost in tick.latency_ms["denoise"]]
        latency: dict[str, Any] = {stage: distribution(self.stage_ms(stage)) for stage in (*STAGES, "total")}
        latency["denoise_step"] = distribution(per_step)
        if self.commit is not None:
            latency["commit"] = {"p50": self.commit.p50_ms, "p99": self.commit.p99_ms}
        return {
            "world": {"name": self.spec.name, "version": self.spec.version},
            "seed": self.seed,
            "ticks": len(self.ticks),
            "wall_s": self.wall_s,
            "ticks_per_s": len(self.ticks) / self.wall_s,
            "budget_ms": finite(self.budget_ms),
            "late": {"ticks": int(late.sum()), "worst_slack_ms": finite(min(t.slack_ms for t in self.ticks))},
            "steps": {
                "mean": float(steps.mean()),
                "schedule": schedule,
                "histogram": {str(k): int((steps == k).sum()) for k in range(1, schedule + 1)},
            },
            "confidence": {**distribution(self.confidence), "reached_threshold": self._reached()},
            "stopped_by": dict(sorted(Counter(tick.stopped_by for tick in self.ticks).items())),
            "latency_ms": latency,
            "per_tick": {
                "action": list(self.actions),
                "steps": steps.tolist(),
                "confidence": self.confidence.tolist(),
                "threshold": [tick.threshold for tick in self.ticks],
                "stopped_by": [tick.stopped_by for tick in self.ticks],
                "status": [tick.status for tick in self.ticks],
                **{f"{stage}_ms": self.stage_ms(stage).tolist() for stage in (*STAGES, "total")},
            },
        }

    def _reached(self) -> float | None:
        """Share of ticks whose confidence reached their threshold; None without a threshold."""
        known = ~np.isnan(self.threshold)
        return float((self.confidence >= self.threshold)[known].mean()) if known.any() else None


def distribution(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Mean and nearest-rank quantiles, so that every quantile was really measured."""
    p50, p99 = np.quantile(values, [0.5, 0.99], method="inverted_cdf").tolist()
    return {"mean": float(np.mean(values)), "p50": p50, "p99": p99, "max": float(np.max(values))}


def finite(value: float) -> float | None:
    """JSON has no infinity; None stands for it."""
    return value if math.isfinite(value) else None
