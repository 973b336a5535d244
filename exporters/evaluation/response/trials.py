"""Trials: actions to hold for a while, and how a probe tells from the film whether the world obeyed.

Two kinds: turns of a view, read by the action probe, and joint velocities, read as angles by the state probe.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from dsa_runtime.spec import Box, Discrete
from exporters.evaluation.config import EvaluationConfig
from exporters.evaluation.response.action_probe import ActionProbe
from exporters.evaluation.state.frames import state_truth, wrapped
from exporters.evaluation.state.probe import StateProbe
from exporters.recording.dataset import Dataset

TURN_ACTIONS = {"left": 1, "right": -1, "noop": 0}
REST = "rest"


class Trials(Protocol):
    """What is asked of a world, and whether it happened."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def action(self, name: str) -> Any:
        """As the world's action space takes it."""
        ...

    def obeyed(self, name: str, film: np.ndarray) -> np.ndarray:
        """float64[B]: 1 or 0; NaN where it cannot be asked. film: uint8[B, 1 + hold, H, W, 3] under that action."""
        ...


class TurnTrials:
    """Turn left, turn right, stay."""

    def __init__(self, probe: ActionProbe, space: Discrete, net_turn_deg: float) -> None:
        """A turn is one of at least `net_turn_deg` in all to the right side; staying is less than that to either."""
        missing = [name for name in TURN_ACTIONS if name not in space.names]
        if missing:
            known = ", ".join(space.names)
            raise ValueError(f"the turning trials need an action named {missing[0]!r}; there are {known}")
        self._probe, self._space, self._net_turn_deg = probe, space, net_turn_deg

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(TURN_ACTIONS)

    def action(self, name: str) -> int:
        return self._space.names.index(name)

    def obeyed(self, name: str, film: np.ndarray) -> np.ndarray:
        return turned(self._probe, film, TURN_ACTIONS[name], self._net_turn_deg).astype(np.float64)


class JointTrials:
    """Each joint forth and back at a share of its top speed while the others rest, and all at rest.

    A joint obeys when it turns at least half of the asked angle to the asked side; one that is asked to rest, when it
    turns less than a quarter of what it would be asked for. A trial that would drive a joint beyond the angles of the
    recordings is not asked.
    """

    def __init__(
        self,
        probe: StateProbe,
        space: Box,
        joints: Mapping[str, str],
        ranges_rad: np.ndarray,
        fps: float,
        hold: int,
        speed: float = 2 / 3,
    ) -> None:
        """ranges_rad: float[J, 2], smallest and largest angle of each joint, in the order of `joints`."""
        self._probe, self._space, self._ranges_rad = probe, space, ranges_rad
        self._columns = [probe.columns.angles.index(column) for column in joints.values()]
        self._components = [space.names.index(name) for name in joints]
        self._seconds = hold / fps
        self._asked: dict[str, np.ndarray] = {}
        for joint, (name, component) in enumerate(zip(joints, self._components, strict=True)):
            for sign, limit in (("+", space.high[component]), ("-", space.low[component])):
                velocity = np.zeros(len(joints))
                velocity[joint] = speed * limit
                self._asked[f"{name} {sign}"] = velocity
        self._asked[REST] = np.zeros(len(joints))
        self.yardstick_rad = self._seconds * np.max(np.abs(list(self._asked.values())), axis=0)
        """float64[J]: the largest angle that a trial asks of each joint."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._asked)

    def action(self, name: str) -> np.ndarray:
        """float32[width]: velocities; components that drive no joint are at rest."""
        action = np.zeros(self._space.width, dtype=np.float32)
        action[self._components] = self._asked[name]
        return action

    def obeyed(self, name: str, film: np.ndarray) -> np.ndarray:
        return self.judge(name, self.angles_rad(film))

    def angles_rad(self, film: np.ndarray) -> np.ndarray:
        """float32[B, T, J] as read from film uint8[B, T, H, W, 3]."""
        reading = self._probe.read(film.reshape(-1, *film.shape[2:]))
        return reading.angles_rad[:, self._columns].reshape(*film.shape[:2], len(self._columns))

    def judge(self, name: str, angles_rad: np.ndarray) -> np.ndarray:
        """`obeyed` of angles float[B, 1 + hold, J], read or true."""
        asked_rad = self._asked[name] * self._seconds
        travel = travelled(angles_rad)
        quiet = np.abs(travel) < 0.25 * self.yardstick_rad
        goes = travel * np.sign(asked_rad) >= 0.5 * np.abs(asked_rad)
        hits = np.where(asked_rad == 0, quiet, goes).all(axis=1)
        goal = angles_rad[:, 0] + asked_rad
        inside = ((goal >= self._ranges_rad[:, 0]) & (goal <= self._ranges_rad[:, 1])) | (asked_rad == 0)
        return np.where(inside.all(axis=1), hits, np.nan).astype(np.float64)

    def gain(self, name: str, angles_rad: np.ndarray) -> np.ndarray:
        """float64[B]: turned angle over asked angle of the asked joint; empty at rest."""
        asked_rad = self._asked[name] * self._seconds
        asked = np.flatnonzero(asked_rad)
        return (travelled(angles_rad)[:, asked] / asked_rad[asked]).reshape(-1)


def joint_ranges(config: EvaluationConfig, dataset: Dataset, split: str) -> np.ndarray:
    """float64[J, 2]: smallest and largest angle (rad) of each joint in a split."""
    columns = [config.state.angles.index(column) for column in config.joints.values()]
    lows, highs = [], []
    for episode in dataset.episodes(split):
        assert episode.state is not None
        angles = state_truth(episode.state, dataset.spec.state, config.state)[1][:, columns]
        lows.append(angles.min(axis=0))
        highs.append(angles.max(axis=0))
    return np.stack([np.min(lows, axis=0), np.max(highs, axis=0)], axis=1).astype(np.float64)


def turned(probe: ActionProbe, film: np.ndarray, turn: int, limit_deg: float) -> np.ndarray:
    """bool[B]: whether the film uint8[B, 1 + N, H, W, 3] turns, in all, as `turn` says (1 left, -1 right, 0 not)."""
    before, after = film[:, :-1], film[:, 1:]
    picture = after.shape[2:]
    degrees = probe.read(before.reshape(-1, *picture), after.reshape(-1, *picture)).turn_deg
    net = degrees.reshape(after.shape[:2]).sum(axis=1)
    result: np.ndarray = np.abs(net) < limit_deg if turn == 0 else net * turn >= limit_deg
    return result


def travelled(angles_rad: np.ndarray) -> np.ndarray:
    """float[B, J]: the way from the first to the last of angles float[B, T, J], each frame's the shorter way round."""
    return np.asarray(wrapped(np.diff(angles_rad, axis=1)).sum(axis=1))
