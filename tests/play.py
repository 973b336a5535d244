"""What tests of a session's state share: a script to play, and what a world's sessions hold."""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dsa_runtime import Controller, Session, World

ACTIONS = [0, 1, 3, 2, 2, 0, 1, 1, 3, 0, 2, 3]
FEEDBACK = Controller(target_steps=2.4, settle_ticks=4)  # its threshold moves with every tick


def play(session: Session, actions: Sequence[int] = ACTIONS, **options: Any) -> list[np.ndarray]:
    return [session.step(action, math.inf, **options).pixels for action in actions]


def held(world: World) -> tuple[int, int]:
    """Slots in use, and slots promised, by sessions that are not garbage."""
    gc.collect()
    return world._cache.used, world._cache._reserved
