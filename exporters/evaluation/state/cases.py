"""StateCases: held-out moments with the simulator's state, drawn at random or where something really moves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from exporters.evaluation.cases import Cases
from exporters.evaluation.config import StateColumns
from exporters.evaluation.state.frames import state_truth
from exporters.evaluation.trained import TrainedWorld
from exporters.packaging.describe import action_space
from exporters.recording.dataset import Dataset
from exporters.recording.episode import DatasetError, Episode
from exporters.training.data import encode_actions


@dataclass(frozen=True)
class Moving:
    """Asks for moments in which some mover is more than `metres` away from its place after `horizon` frames."""

    horizon: int
    metres: float


@dataclass(frozen=True)
class StateCases:
    """B cases with what the simulator knows from the newest context frame (index 0) to horizon N.

    points_m: float32[B, 1 + N, P, 2]. angles_rad: float32[B, 1 + N, A]. jumped: bool[B, 1 + N], some mover has been put
    elsewhere since the context, so that its place could not have been foreseen.
    """

    cases: Cases
    points_m: np.ndarray
    angles_rad: np.ndarray
    jumped: np.ndarray

    def __len__(self) -> int:
        return len(self.cases)

    def travel_m(self, horizon: int) -> np.ndarray:
        """float32[B, P]: how far each point is, at a horizon, from where it was at the end of the context."""
        return np.asarray(np.linalg.norm(self.points_m[:, horizon] - self.points_m[:, 0], axis=2))


def state_cases(
    dataset: Dataset,
    split: str,
    trained: TrainedWorld,
    columns: StateColumns,
    count: int,
    horizon: int,
    *,
    moving: Moving | None = None,
    seed: int = 0,
) -> StateCases:
    """Up to `count` cases without a cut, starts of one recording at least `horizon` frames apart.

    Raises DatasetError when there is none.
    """
    rng = np.random.default_rng(seed)
    length, space, names = trained.window + horizon, action_space(dataset.spec), dataset.spec.state
    found: list[tuple[np.ndarray, torch.Tensor, np.ndarray]] = []
    for episode in dataset.episodes(split):
        actions = encode_actions(episode.actions, space)
        assert episode.state is not None
        starts = episode.window_starts(length)
        if moving is not None:
            starts = starts[_moves(episode, starts + trained.window - 1, names, columns, moving)]
        for start in _apart(rng.permutation(starts), horizon):
            inside = slice(start, start + length)
            found.append((episode.frames[inside], actions[inside], episode.state[inside]))
    if not found:
        what = "without a cut" if moving is None else f"in which something moves {moving.metres} m"
        raise DatasetError(f"{dataset.folder}: split {split!r} has no stretch of {length} frames {what}")
    chosen = np.sort(rng.permutation(len(found))[:count])
    frames, encoded, states = zip(*(found[index] for index in chosen), strict=True)
    pictures, state = np.stack(frames), np.stack(states)[:, trained.window - 1 :]
    cases = Cases(pictures, trained.encode(pictures[:, : trained.window]), torch.stack(encoded))
    jumps = np.zeros(state.shape[:2], dtype=np.bool_)
    if columns.jumps:
        jumps[:, 1:] = np.cumsum(state[:, 1:, names.index(columns.jumps)] != 0, axis=1) > 0
    return StateCases(cases, *state_truth(state, names, columns), jumps)


def _moves(
    episode: Episode, newest: np.ndarray, names: tuple[str, ...], columns: StateColumns, moving: Moving
) -> np.ndarray:
    """bool[M]: a mover moves, and none is put elsewhere, after these newest context frames int64[M]."""
    assert episode.state is not None
    points, _ = state_truth(episode.state, names, columns)
    movers = [list(columns.points).index(name) for name in columns.movers]
    travel = np.linalg.norm(points[newest + moving.horizon] - points[newest], axis=2)[:, movers]
    moves: np.ndarray = (travel > moving.metres).any(axis=1)
    if columns.jumps:
        jumps = np.cumsum(episode.state[:, names.index(columns.jumps)] != 0)
        moves &= jumps[newest + moving.horizon] == jumps[newest]
    return moves


def _apart(starts: np.ndarray, distance: int) -> list[int]:
    """The starts in their order, without those closer than `distance` to one before."""
    kept: list[int] = []
    for start in starts:
        if all(abs(int(start) - other) >= distance for other in kept):
            kept.append(int(start))
    return kept
