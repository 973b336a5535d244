"""Reward: what a caller makes of a step, read from its pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Reward = Callable[[np.ndarray, Any, np.ndarray, dict[str, Any]], float]
"""`reward(frame, action, next_frame, info)`: the observations before and after, `uint8[H, W, 3]` or
`uint8[F, H, W, 3]`, not to be written to; the action; and the step's `info`."""


def no_reward(frame: np.ndarray, action: Any, next_frame: np.ndarray, info: dict[str, Any]) -> float:
    """A world draws pictures; what is good in them it does not know."""
    return 0.0
