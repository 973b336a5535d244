"""One continuous recording: its arrays, its file, and what makes it valid.

An episode file is a `.npz` with N steps:

    frames   uint8[N+1, H, W, 3]         frames[0] is the first picture
    actions  int64[N]                    Discrete: actions[i] leads from frames[i] to frames[i+1]
             uint8[N, n]                 MultiBinary
             float32[N, n]               Box
    cut      bool[N+1]                   True where the picture follows a reset inside the recording
    reward   float32[N]                  what the environment paid for actions[i]
    state    float32[N+1, S], optional   simulator state per picture; `dataset.json` names the columns
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


class DatasetError(ValueError):
    """A recording or a dataset does not follow the format. The message names the file and the array."""


@dataclass(frozen=True)
class Episode:
    """One recording in memory; see the module for shapes. The holder owns the arrays."""

    frames: np.ndarray
    actions: np.ndarray
    cut: np.ndarray
    reward: np.ndarray
    state: np.ndarray | None = None

    @property
    def steps(self) -> int:
        return int(self.actions.shape[0])

    def window_starts(self, length: int) -> np.ndarray:
        """int64[M]: every i for which frames[i : i + length] is continuous (no cut after its first picture)."""
        if length < 1:
            raise ValueError(f"length must be at least 1, got {length}")
        count = len(self.frames) - length + 1
        if count <= 0:
            return np.empty(0, dtype=np.int64)
        cuts_before = np.concatenate([[0], np.cumsum(self.cut)])  # cuts_before[i] = cuts in frames[:i]
        inside = cuts_before[length : length + count] - cuts_before[1 : 1 + count]
        return np.flatnonzero(inside == 0).astype(np.int64)


def action_array_type(action_space: Mapping[str, Any]) -> tuple[np.dtype, tuple[int, ...]]:
    """The dtype and the per-step shape that actions of this space have on disk."""
    kind = action_space.get("type")
    if kind == "Discrete":
        return np.dtype(np.int64), ()
    if kind == "MultiBinary":
        return np.dtype(np.uint8), (int(action_space["n"]),)
    if kind == "Box":
        return np.dtype(np.float32), (len(action_space["low"]),)
    raise DatasetError(f"unknown action space type {kind!r}; known: Discrete, MultiBinary, Box")


def validate_episode(
    episode: Episode,
    frame: Mapping[str, Any],
    action_space: Mapping[str, Any],
    state_names: tuple[str, ...] = (),
    where: str = "episode",
) -> None:
    """Raises DatasetError, naming `where` and the array, unless the episode follows the format."""
    steps = len(episode.actions)
    if steps < 1:
        raise DatasetError(f"{where}: a recording needs at least one step")
    picture = (int(frame["height"]), int(frame["width"]), int(frame["channels"]))
    action_dtype, action_shape = action_array_type(action_space)
    _expect(where, "frames", episode.frames, np.dtype(np.uint8), (steps + 1, *picture))
    _expect(where, "actions", episode.actions, action_dtype, (steps, *action_shape))
    _expect(where, "cut", episode.cut, np.dtype(np.bool_), (steps + 1,))
    _expect(where, "reward", episode.reward, np.dtype(np.float32), (steps,))
    if episode.cut[0]:
        raise DatasetError(f"{where}: cut[0] is True, but the first picture follows no other")
    if not np.isfinite(episode.reward).all():
        raise DatasetError(f"{where}: reward holds NaN or infinity")
    _check_action_range(episode.actions, action_space, where)
    if state_names and episode.state is None:
        raise DatasetError(f"{where}: no state array, but dataset.json names {len(state_names)} state columns")
    if episode.state is not None:
        _expect(where, "state", episode.state, np.dtype(np.float32), (steps + 1, len(state_names)))
        if not np.isfinite(episode.state).all():
            raise DatasetError(f"{where}: state holds NaN or infinity")


def write_episode(path: Path, episode: Episode, *, compress: bool = False) -> None:
    """Writes the file in one step (a reader never sees half of it). Compressed files are smaller and slow."""
    arrays = {"frames": episode.frames, "actions": episode.actions, "cut": episode.cut, "reward": episode.reward}
    if episode.state is not None:
        arrays["state"] = episode.state
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as stream:
        (np.savez_compressed if compress else np.savez)(stream, **arrays)  # type: ignore[arg-type]
    os.replace(partial, path)


def read_episode(
    path: Path, frame: Mapping[str, Any], action_space: Mapping[str, Any], state_names: tuple[str, ...] = ()
) -> Episode:
    """Reads and validates one file. Raises DatasetError naming the file; nothing is unpickled."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            missing = {"frames", "actions", "cut", "reward"} - set(arrays.files)
            if missing:
                raise DatasetError(f"{path}: arrays missing: {', '.join(sorted(missing))}")
            episode = Episode(
                frames=arrays["frames"],
                actions=arrays["actions"],
                cut=arrays["cut"],
                reward=arrays["reward"],
                state=arrays["state"] if "state" in arrays.files else None,
            )
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such recording") from None
    except DatasetError:
        raise
    except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
        raise DatasetError(f"{path}: not a readable recording ({error})") from error
    validate_episode(episode, frame, action_space, state_names, where=str(path))
    return episode


def _expect(where: str, name: str, array: np.ndarray, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise DatasetError(f"{where}: {name} is {array.dtype}{list(array.shape)}, expected {dtype}{list(shape)}")


def _check_action_range(actions: np.ndarray, action_space: Mapping[str, Any], where: str) -> None:
    kind = action_space["type"]
    if kind == "Box":
        low, high = (np.asarray(action_space[key], dtype=np.float32) for key in ("low", "high"))
        good = bool(np.isfinite(actions).all() and (actions >= low).all() and (actions <= high).all())
        bounds = f"[{low.tolist()}, {high.tolist()}]"
    else:
        top = int(action_space["n"]) - 1 if kind == "Discrete" else 1
        good = bool((actions >= 0).all() and (actions <= top).all())
        bounds = f"[0, {top}]"
    if not good:
        raise DatasetError(f"{where}: actions leave the {kind} space {bounds}")
