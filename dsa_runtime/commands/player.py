"""ScriptedPlayer: plays any world the same way every time."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from ..actions import ActionSpace, Box, Discrete, MultiBinary

Buttons = frozenset[str]

# (buttons held, ticks): look to the right in two sweeps and fire at what is there, come back past the middle,
# the same on the left, return. Both sides add up to nothing, so the player ends up where it started.
_LOOK_AROUND: tuple[tuple[str, int], ...] = (
    ("", 6), ("fire", 4), ("right", 5), ("fire", 5), ("", 3), ("right", 6), ("right fire", 4), ("", 4),
    ("left", 9), ("fire", 6), ("left", 6), ("", 3), ("left", 6), ("left fire", 4), ("fire", 4), ("", 4),
    ("right", 10), ("fire", 5),
)  # fmt: skip
_HOLD_TICKS = 8
_SWEEP_TICKS = 48
_SAME = {"attack": "fire", "shoot": "fire"}
_NOTHING = {"noop", "none", "idle", "nothing", "turn", "look", "move"}


class ScriptedPlayer:
    """Looks left and right and fires where the action space has buttons for it; otherwise tries everything.

    A player keeps no state: the action is a function of the tick.
    """

    def __init__(self, space: ActionSpace) -> None:
        self._space = space
        self._choose = _look_around(space) or _try_everything(space)

    def action(self, tick: int) -> Any:
        """The action of a tick, valid in the space."""
        return self._choose(tick)

    def describe(self, tick: int) -> str:
        """The action of a tick in a few words."""
        return describe(self._space, self.action(tick))


def describe(space: ActionSpace, action: Any) -> str:
    """A valid action in a few words, from the names in the space."""
    if isinstance(space, Discrete):
        return space.names[int(action)]
    if isinstance(space, MultiBinary):
        pressed = [name for name, down in zip(space.names, action, strict=True) if down]
        return "+".join(pressed) or "noop"
    values = [f"{name} {value:+.2g}" for name, value in zip(space.names, action, strict=True)]
    return "  ".join(values[:2]) + (" ..." if len(values) > 2 else "")


def _look_around(space: ActionSpace) -> Callable[[int], Any] | None:
    """The script above, or None where the space has no such buttons."""
    press = _press(space)
    script = [frozenset(held.split()) for held, ticks in _LOOK_AROUND for _ in range(ticks)]
    if press is None:
        return None
    actions = [press(held) for held in script]
    if any(action is None for action in actions):  # no combinations? then one button at a time
        actions = [press(held & {"fire"} or held) for held in script]
    if any(action is None for action in actions):
        return None
    return lambda tick: actions[tick % len(actions)]


def _press(space: ActionSpace) -> Callable[[Buttons], Any] | None:
    """A function from buttons to the action that holds exactly these, which may be None."""
    if isinstance(space, Discrete):
        by_buttons = {_buttons(name): index for index, name in reversed(list(enumerate(space.names)))}
        return by_buttons.get
    if isinstance(space, MultiBinary):
        keys = [_buttons(name) for name in space.names]

        def press(held: Buttons) -> np.ndarray | None:
            action = np.array([bool(key) and key <= held for key in keys], np.uint8)
            pressed = frozenset().union(*(key for key, down in zip(keys, action, strict=True) if down))
            return action if pressed == held else None

        return press
    return None


def _try_everything(space: ActionSpace) -> Callable[[int], Any]:
    """Every action or button in turn, held for a while; values sweep their range, each at its own pace."""
    if isinstance(space, Discrete):
        return lambda tick: tick // _HOLD_TICKS % space.n
    if isinstance(space, MultiBinary):
        return lambda tick: np.eye(space.n, dtype=np.uint8)[tick // _HOLD_TICKS % space.n]
    return lambda tick: _sweep(space, tick)


def _sweep(space: Box, tick: int) -> np.ndarray:
    low, high = np.asarray(space.low, np.float32), np.asarray(space.high, np.float32)
    phase = 2 * math.pi * tick / (_SWEEP_TICKS * (1 + np.arange(space.width)))
    # Written so that rounding cannot leave the bounds.
    return np.clip(low + (high - low) * (0.5 + 0.5 * np.sin(phase)), low, high).astype(np.float32)


def _buttons(name: str) -> Buttons:
    """ "turn_left+attack" -> {left, fire}; "noop" -> {}."""
    words = re.findall(r"[a-z]+", name.lower())
    return frozenset(_SAME.get(word, word) for word in words) - _NOTHING
