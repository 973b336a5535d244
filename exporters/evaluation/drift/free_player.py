"""Free players: actions for thousands of ticks, decided without looking at anything but their own past actions."""

from __future__ import annotations

import numpy as np

from dsa_runtime.spec import Box
from exporters.evaluation.config import EvaluationConfig
from exporters.evaluation.response.action_probe import buttons
from exporters.evaluation.response.trials import joint_ranges
from exporters.packaging.describe import action_space
from exporters.recording.dataset import Dataset
from exporters.recording.environment import Observation
from exporters.recording.policies import StickyRandomPolicy

_MEAN_HOLD = 9.0
_REST = 0.25
_TURN_BACK = 0.8


def free_actions(dataset: Dataset, split: str, ticks: int, seed: int, config: EvaluationConfig) -> np.ndarray:
    """A player that fits the world: int64[ticks] of `turning_actions` or float32[ticks, n] of `held_actions`.

    The first n actions do not depend on `ticks`.
    """
    space = action_space(dataset.spec)
    if isinstance(space, Box):
        return held_actions(dataset, split, space, config, ticks, seed)
    return turning_actions(dataset, split, ticks, seed)


def turning_actions(dataset: Dataset, split: str, ticks: int, seed: int) -> np.ndarray:
    """int64[ticks] of a sticky random player that knows its heading only by counting its turns."""
    turns = [turn for turn, _ in buttons(dataset.spec)]
    degrees = _degrees_per_step(dataset, split)
    player = StickyRandomPolicy()
    player.begin(np.random.default_rng(seed))
    heading, actions = 0.0, np.empty(ticks, dtype=np.int64)
    nothing = np.empty((0, 0, 3), dtype=np.uint8)
    for tick in range(ticks):
        actions[tick] = player.act(Observation(nothing, np.asarray([heading], dtype=np.float32)))
        heading += turns[actions[tick]] * degrees
    return actions


def held_actions(
    dataset: Dataset, split: str, space: Box, config: EvaluationConfig, ticks: int, seed: int
) -> np.ndarray:
    """float32[ticks, n] of a player that holds random values for a random time, each component at rest in a quarter.

    Where the recipe says which joint a velocity drives, the player reckons the joint's angle from its own commands, as
    if it stopped at the ends of the recorded range, and mostly turns back when it is at one.
    """
    rng = np.random.default_rng(seed)
    low, high = np.asarray(space.low), np.asarray(space.high)
    driven = [space.names.index(name) for name in config.joints]
    ranges = joint_ranges(config, dataset, split) if driven else np.empty((0, 2))
    middle, room = ranges.mean(axis=1), 0.4 * (ranges[:, 1] - ranges[:, 0])  # 0.4 of the range to either side is free
    angle, seconds = middle.copy(), 1.0 / float(dataset.spec.frame["fps"])
    actions = np.empty((ticks, space.width), dtype=np.float32)
    left = 0
    for tick in range(ticks):
        if left == 0:
            # Rest is zero where the space allows it.
            action = np.where(rng.random(len(low)) < _REST, np.clip(0.0, low, high), rng.uniform(low, high))
            left = int(rng.geometric(1.0 / _MEAN_HOLD))
            for joint, component in enumerate(driven):
                off = angle[joint] - middle[joint]
                if abs(off) > room[joint] and rng.random() < _TURN_BACK:
                    back = -np.sign(off) * abs(action[component])
                    action[component] = np.clip(back, low[component], high[component])
        left -= 1
        actions[tick] = action
        if driven:
            angle = np.clip(angle + action[driven] * seconds, ranges[:, 0], ranges[:, 1])
    return actions


def _degrees_per_step(dataset: Dataset, split: str) -> float:
    """Median turn of one step in which a turn was asked for."""
    turns = np.asarray([turn for turn, _ in buttons(dataset.spec)])
    column = dataset.spec.state.index("angle_deg")
    episode = dataset.read(split, 0)
    assert episode.state is not None
    turned = np.abs((np.diff(episode.state[:, column]) + 180.0) % 360.0 - 180.0)
    return float(np.median(turned[(turns[episode.actions] != 0) & ~episode.cut[1:]]))
