"""Cases: held-out moments of real recordings, each with its context before and what really happened after."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from exporters.evaluation.interval import neighbours
from exporters.evaluation.trained import TrainedWorld
from exporters.packaging.describe import action_space
from exporters.recording.dataset import Dataset
from exporters.recording.episode import DatasetError
from exporters.training.data import encode_actions


@dataclass(frozen=True)
class Cases:
    """B moments with a window of W frames before and a horizon of N frames after each.

    frames: uint8[B, W + N, H, W', 3], real. latents: float32[B, W, C, h, w] of the context frames.
    actions: float32[B, W + N, A], encoded; actions[:, i] led to frames[:, i].
    No case contains a cut (a reset of the environment), neither in its context nor within its horizon: after a cut the
    real future is another life, which no model could have foreseen.
    """

    frames: np.ndarray
    latents: Tensor
    actions: Tensor
    state: np.ndarray | None = None
    """float32[B, W + N, S]: the simulator's state at each frame; None for recordings without it."""
    recording: np.ndarray | None = None
    """int64[B]: index of the recording of each case, those of one in order of time; None: nothing is known of it."""

    @property
    def window(self) -> int:
        return int(self.latents.shape[1])

    @property
    def horizon(self) -> int:
        return int(self.actions.shape[1]) - self.window

    @property
    def future(self) -> np.ndarray:
        """uint8[B, N, H, W', 3]: the real frames after the context; `future[:, h - 1]` is horizon h."""
        return self.frames[:, self.window :]

    @property
    def units(self) -> np.ndarray:
        """int64[B]: the cluster of each case, for intervals; without recordings each is its own."""
        return np.arange(len(self)) if self.recording is None else neighbours(self.recording)

    def __len__(self) -> int:
        return len(self.frames)

    def until(self, horizon: int) -> Cases:
        """The same moments with a shorter horizon."""
        length = self.window + horizon
        state = None if self.state is None else self.state[:, :length]
        return replace(self, frames=self.frames[:, :length], actions=self.actions[:, :length], state=state)

    def under(self, action: Tensor) -> Cases:
        """The same contexts with one constant action[A] from now on. The real future no longer belongs to it."""
        constant = action.expand(len(self), self.horizon, -1)
        return replace(self, actions=torch.cat([self.actions[:, : self.window], constant], dim=1))


def held_out_cases(
    dataset: Dataset, split: str, trained: TrainedWorld, count: int, horizon: int, *, seed: int = 0
) -> Cases:
    """Up to `count` cases of a split, drawn evenly from its recordings, starts at least `horizon` frames apart.

    Raises DatasetError when no stretch of the split is long enough.
    """
    rng = np.random.default_rng(seed)
    length, space = trained.window + horizon, action_space(dataset.spec)
    recordings = len(dataset.paths(split))
    frames, actions, states, origin = [], [], [], []
    for index, episode in enumerate(dataset.episodes(split)):
        share = count * (index + 1) // recordings - count * index // recordings
        encoded = encode_actions(episode.actions, space)
        for start in _spread(episode.window_starts(length), share, horizon, rng):
            frames.append(episode.frames[start : start + length])
            actions.append(encoded[start : start + length])
            origin.append(index)
            if episode.state is not None:
                states.append(episode.state[start : start + length])
    if not frames:
        raise DatasetError(f"{dataset.folder}: split {split!r} has no stretch of {length} frames without a cut")
    stacked = np.stack(frames)
    state = np.stack(states) if len(states) == len(frames) else None
    latents = trained.encode(stacked[:, : trained.window])
    return Cases(stacked, latents, torch.stack(actions), state, np.asarray(origin, dtype=np.int64))


def _spread(starts: np.ndarray, count: int, apart: int, rng: np.random.Generator) -> list[int]:
    """Up to `count` random starts, in order, no two closer than `apart`."""
    chosen: list[int] = []
    for start in rng.permutation(starts):
        if len(chosen) == count:
            break
        if all(abs(int(start) - other) >= apart for other in chosen):
            chosen.append(int(start))
    return sorted(chosen)
