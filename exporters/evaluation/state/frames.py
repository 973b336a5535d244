"""Real pictures with the state that a recording keeps about them, in the form that a probe reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from exporters.evaluation.config import EvaluationConfig, StateColumns
from exporters.recording.dataset import Dataset
from exporters.recording.episode import DatasetError


@dataclass(frozen=True)
class Frames:
    """Real pictures uint8[B, H, W, 3] with their truth. points_m: float32[B, P, 2]; angles_rad: float32[B, A]."""

    pictures: np.ndarray
    points_m: np.ndarray
    angles_rad: np.ndarray


def real_frames(dataset: Dataset, columns: StateColumns, split: str, count: int, *, seed: int = 0) -> Frames:
    """Up to `count` random frames of a split, evenly from its recordings, in order."""
    EvaluationConfig(columns).check(dataset.spec)
    rng = np.random.default_rng(seed)
    episodes = len(dataset.paths(split))
    parts: list[tuple[np.ndarray, ...]] = []
    for index, episode in enumerate(dataset.episodes(split)):
        share = count * (index + 1) // episodes - count * index // episodes
        chosen = np.sort(rng.permutation(len(episode.frames))[:share])
        assert episode.state is not None
        parts.append((episode.frames[chosen], *state_truth(episode.state[chosen], dataset.spec.state, columns)))
    if not parts:
        raise DatasetError(f"{dataset.folder}: split {split!r} holds no episode")
    return Frames(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def state_truth(state: np.ndarray, names: Sequence[str], columns: StateColumns) -> tuple[np.ndarray, np.ndarray]:
    """Points float32[..., P, 2] in metres and angles float32[..., A] from state float32[..., S]."""
    places = [[names.index(column) for column in pair] for pair in columns.points.values()]
    angles = [names.index(column) for column in columns.angles]
    return state[..., np.asarray(places, dtype=np.int64).reshape(-1, 2)], state[..., np.asarray(angles, dtype=np.int64)]


def wrapped(angles_rad: np.ndarray) -> np.ndarray:
    """The same angles in [-pi, pi)."""
    return np.asarray((angles_rad + np.pi) % (2 * np.pi) - np.pi)
