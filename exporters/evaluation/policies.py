"""Rules of how many denoising steps a frame gets: the calibrated confidence, and what it has to be compared with.

The controls are told how the rule under test spent its steps: at every tick they get the same number of frames that
stop after 1, 2 ... K steps (the oracle: the same total), so that a difference is one of *which* frames got them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..training.benefit import pooled
from .playing import TickView
from .trained import TrainedWorld


@dataclass(frozen=True)
class ConfidencePolicy:
    """Stop at the first step whose calibrated confidence reaches the threshold: what `Session.step` does."""

    threshold: float
    curves: Sequence[Mapping[str, Sequence[float]]]
    """`within_delta` of the calibration table, one per step but the last."""

    def __call__(self, view: TickView) -> Tensor:
        confident = torch.stack(
            [
                torch.from_numpy(np.interp(estimate.logit.numpy(), curve["logit"], curve["value"]) >= self.threshold)
                for estimate, curve in zip(view.estimates[:-1], self.curves, strict=True)
            ],
            dim=1,
        )
        return first_true(confident)


class PaperPolicy:
    """Algorithm 1 of the DSA paper: one step; all others if its raw confidence is below the previous frame's."""

    def __init__(self) -> None:
        self._previous: Tensor | None = None

    def __call__(self, view: TickView) -> Tensor:
        scores = torch.stack([estimate.logit.sigmoid() for estimate in view.estimates], dim=1)
        previous = torch.ones_like(scores[:, 0]) if self._previous is None else self._previous
        steps = torch.where(scores[:, 0] < previous, len(view.estimates), 1)
        self._previous = scores[torch.arange(len(steps)), steps - 1]
        return steps


@dataclass(frozen=True)
class RandomPolicy:
    """The same shares of steps, handed out blindly. steps: int64[B, N] of the rule under test."""

    steps: Tensor
    seed: int

    def __call__(self, view: TickView) -> Tensor:
        rng = torch.Generator().manual_seed(self.seed * 100_003 + view.tick)
        return self.steps[torch.randperm(len(self.steps), generator=rng), view.tick]


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


def first_true(reached: Tensor) -> Tensor:
    """bool[B, K - 1] -> int64[B]: 1-based column of the first True, K where there is none."""
    always = torch.ones(len(reached), 1, dtype=torch.bool)
    return torch.cat([reached, always], dim=1).int().argmax(dim=1) + 1


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
