"""A world's frames and actions as Gymnasium spaces."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from ..actions import ActionSpace, Box, Discrete
from ..spec import FrameSpec


def observation_space(frame: FrameSpec) -> spaces.Box:
    """`uint8[height, width, 3]`, or `uint8[F, height, width, 3]` where a tick has F pictures."""
    return spaces.Box(0, 255, frame.shape if frame.frames_per_tick == 1 else frame.tick_shape, np.uint8)


def action_space(space: ActionSpace) -> spaces.Space[Any]:
    """The same space as Gymnasium has it. It loses the names and units, which `WorldEnv.actions` keeps."""
    if isinstance(space, Discrete):
        return spaces.Discrete(space.n)
    if isinstance(space, Box):
        return spaces.Box(np.asarray(space.low, np.float32), np.asarray(space.high, np.float32), dtype=np.float32)
    return spaces.MultiBinary(space.n)
