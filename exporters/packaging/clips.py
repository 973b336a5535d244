"""Clips of recordings for packages: start contexts of a world, and held-out stretches to verify it on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from exporters.recording.dataset import Dataset
from exporters.recording.episode import DatasetError


@dataclass(frozen=True)
class Clips:
    """N stretches of F consecutive frames, none across a cut."""

    frames: np.ndarray
    """`uint8[N, F, H, W, 3]`"""
    actions: np.ndarray
    """`[N, F]` or `[N, F, n]` as recorded; `actions[i, j]` led to `frames[i, j]`."""

    def head(self, length: int) -> Clips:
        """The first `length` frames of every clip."""
        return Clips(self.frames[:, :length], self.actions[:, :length])


def longest_everywhere(dataset: Dataset, split: str) -> int:
    """How many consecutive frames every recording of a split has somewhere without a cut."""

    def longest(cut: np.ndarray) -> int:
        ends = np.concatenate([[0], np.flatnonzero(cut), [len(cut)]])
        return int(np.diff(ends).max())

    return min((longest(episode.cut) for episode in dataset.episodes(split)), default=0)


def pick_clips(dataset: Dataset, split: str, count: int, length: int, seed: int = 0) -> Clips:
    """Draw `count` clips of `length` frames from a split: an episode uniformly, then a place in it.

    Raises DatasetError if an episode drawn has no stretch of that length.
    """
    rng = np.random.default_rng(seed)
    paths = dataset.paths(split)
    episodes = np.sort(rng.integers(len(paths), size=count))
    frames, actions = [], []
    for index in np.unique(episodes):
        episode = dataset.read(split, int(index))
        # One more frame in front: the clip's first frame needs the action that led to it.
        starts = episode.window_starts(length + 1)
        if not len(starts):
            raise DatasetError(f"{paths[index]}: no {length + 1} consecutive frames without a cut")
        for start in rng.choice(starts, size=int((episodes == index).sum())):
            frames.append(episode.frames[start + 1 : start + 1 + length].copy())
            actions.append(episode.actions[start : start + length].copy())
    return Clips(np.stack(frames), np.stack(actions))
