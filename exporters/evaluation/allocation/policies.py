"""Rules of how many denoising steps a frame gets: the calibrated confidence, and what it has to be compared with.

Controls are told how the rule under test spent its steps, so that a difference is one of *which* frames got them. At
every tick `RandomPolicy` and `MotionPolicy` stop as many frames after 1, 2 ... K steps as it did, and `OraclePolicy`
spends the same total. `AlternatingPolicy` spends the same total over the whole rollouts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exporters.evaluation.playing import OnlinePolicy, TickView
from exporters.evaluation.trained import TrainedWorld
from exporters.training.benefit import pooled


@dataclass(frozen=True)
class ConfidencePolicy(OnlinePolicy):
    """Stop at the first step whose calibrated confidence reaches the threshold: what `Session.step` does."""

    threshold: float
    curves: Sequence[Mapping[str, Sequence[float]]]
    """`within_delta` of the calibration table, one per step but the last."""

    def goes_on(self, tick: int, step: int, logit: Tensor, rows: Tensor) -> Tensor:
        curve = self.curves[step - 1]
        return torch.from_numpy(np.interp(logit.numpy(), curve["logit"], curve["value"]) < self.threshold)


class PaperPolicy(OnlinePolicy):
    """Algorithm 1 of the DSA paper: one step; all others if its raw confidence is below the previous frame's.

    The previous frame's is that of its last step, whichever that was; before the first frame it is 1. The paper gives
    no choice of cost: what this spends is its own.
    """

    def __init__(self) -> None:
        self._previous: Tensor | None = None

    def goes_on(self, tick: int, step: int, logit: Tensor, rows: Tensor) -> Tensor:
        if step > 1:
            return torch.ones(len(rows), dtype=torch.bool)
        score = logit.sigmoid()
        return score < (torch.ones_like(score) if self._previous is None else self._previous)

    def finish(self, logit: Tensor) -> None:
        self._previous = logit.sigmoid()


class PlannedPolicy(OnlinePolicy):
    """A rule that looks at nothing."""

    def plan(self, tick: int, rows: Tensor) -> Tensor:
        """int64[n]: the steps of frames `rows` int64[n]."""
        raise NotImplementedError

    def goes_on(self, tick: int, step: int, logit: Tensor, rows: Tensor) -> Tensor:
        return self.plan(tick, rows) > step


@dataclass(frozen=True)
class FixedPolicy(PlannedPolicy):
    """`first` steps for the first frame, `steps` for all others."""

    steps: int
    first: int

    def plan(self, tick: int, rows: Tensor) -> Tensor:
        return torch.full_like(rows, self.steps if tick else self.first)


@dataclass(frozen=True)
class RandomPolicy(PlannedPolicy):
    """The same shares of steps, handed out blindly. steps: int64[B, N] of the rule under test."""

    steps: Tensor
    seed: int

    def plan(self, tick: int, rows: Tensor) -> Tensor:
        rng = torch.Generator().manual_seed(self.seed * 100_003 + tick)
        return self.steps[torch.randperm(len(self.steps), generator=rng), tick][rows]


@dataclass(frozen=True)
class AlternatingPolicy(PlannedPolicy):
    """k and k + 1 steps by turns, as evenly in time as can be, at the same share in every rollout. No chance, no head.

    steps: int64[B, N] of the rule under test, whose total is spent. The rollouts begin at evenly spread points of the
    cycle: in step with each other, all of them would have their better frame at the horizons that are looked at, or
    none.
    """

    steps: Tensor

    def plan(self, tick: int, rows: Tensor) -> Tensor:
        count, horizon = self.steps.shape
        total = int(self.steps.sum())
        # Neighbouring rows may come from the same recording, so the starting points are mixed, always in the same way.
        phase = torch.randperm(count, generator=torch.Generator().manual_seed(count))[rows]

        def until(ticks: int) -> Tensor:
            """Steps of a rollout's first frames: ticks * mean + (phase + 1/2) / count, rounded down."""
            return (2 * ticks * total + (2 * phase + 1) * horizon) // (2 * count * horizon)

        return until(tick + 1) - until(tick)


@dataclass(frozen=True)
class MotionPolicy:
    """The same shares of steps, to where the latent moves most: no head needed.

    After step k the frames whose estimate changed least stop: against the previous frame after the first step, against
    the previous step's estimate after the others. steps: int64[B, N] of the rule under test.
    """

    steps: Tensor

    def __call__(self, view: TickView) -> Tensor:
        clean = torch.stack([view.previous, *(estimate.clean for estimate in view.estimates)], dim=1)
        change = (clean[:, 1:] - clean[:, :-1]).square().mean(dim=(2, 3, 4))
        return stop_smallest(change[:, :-1], self.steps[:, view.tick])


@dataclass(frozen=True)
class OraclePolicy:
    """The same total of steps, placed so that the batch is as near to the full schedule's frames as it can be.

    Looks at all K estimates first, so it cannot run at play: the bound of what knowing the benefit could give *within
    a tick*. What a frame's error does to later frames is beyond it. steps: int64[B, N] of the rule under test.
    """

    steps: Tensor
    trained: TrainedWorld

    def __call__(self, view: TickView) -> Tensor:
        distance = distances_to_full(self.trained, [estimate.clean for estimate in view.estimates])
        return torch.from_numpy(best_spend(distance.double().numpy(), int(self.steps[:, view.tick].sum())))


def stop_smallest(signal: Tensor, steps: Tensor) -> Tensor:
    """After step k as many frames stop as `steps` has k's: of those still going, the smallest signal[:, k - 1].

    signal: float32[B, K - 1], steps: int64[B]. Returns int64[B], a permutation of `steps`.
    """
    result = torch.full_like(steps, signal.shape[1] + 1)
    going = torch.ones(len(steps), dtype=torch.bool)
    for k in range(signal.shape[1]):
        count = int((steps == k + 1).sum())
        order = signal[:, k].masked_fill(~going, float("inf")).argsort(stable=True)[:count]
        result[order] = k + 1
        going[order] = False
    return result


def best_spend(cost: np.ndarray, total: int) -> np.ndarray:
    """Steps int64[B], 1..K each and `total` together, that minimise the sum of cost[b, steps[b] - 1]; exact.

    cost: float64[B, K]; B <= total <= B * K. Dynamic programme over the frames: a knapsack with one choice per frame.
    """
    count, choices = cost.shape
    if not count <= total <= count * choices:
        raise ValueError(f"{count} frames cannot spend {total} steps, with 1..{choices} each")
    best = np.full(total + 1, np.inf)
    best[0] = 0.0
    taken = np.zeros((count, total + 1), dtype=np.int64)
    for frame in range(count):
        options = np.full((choices, total + 1), np.inf)
        for k in range(choices):
            options[k, k + 1 :] = best[: total - k] + cost[frame, k]
        taken[frame] = options.argmin(axis=0) + 1
        best = options.min(axis=0)
    steps = np.empty(count, dtype=np.int64)
    for frame in range(count - 1, -1, -1):
        steps[frame] = taken[frame, total]
        total -= steps[frame]
    return steps


@torch.inference_mode()
def distances_to_full(trained: TrainedWorld, clean: Sequence[Tensor]) -> Tensor:
    """float32[B, K] in grey levels of 255, the calibration's unit: each step's picture against the last one's."""
    pictures = [pooled(trained.autoencoder, latent) for latent in clean]
    return torch.stack([(p - pictures[-1]).square().mean(dim=(1, 2, 3)).sqrt() * 127.5 for p in pictures], dim=1)


def table_threshold(calibration: Mapping[str, Any], mean_steps: float) -> float:
    """The calibration table's threshold whose held-out mean is nearest to the wanted number of steps."""
    row = min(calibration["thresholds"], key=lambda point: abs(point["mean_steps"] - mean_steps))
    return float(row["threshold"])
