"""Controls: what keys, gamepad and touch hold, for an action space, and the action that this is.

The page knows buttons and axes by name only. It says which are held, and how far; the action is made here.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import strict_json
from ..actions import ActionSpace, Box, Discrete, MultiBinary
from ..errors import ActionError

MOST_SHOWN = 64
"""Buttons or axes on the page; the others of larger spaces are never pressed."""
_REST = {"noop", "no_op", "none", "idle", "nothing", "stay", "wait"}

# Keys are `KeyboardEvent.code`: where they are, whatever is printed on them. P . , B R M and / belong to the page.
_DIRECTIONS = {"left": "left", "right": "right", "up": "up", "forward": "up", "forwards": "up", "down": "down",
               "back": "down", "backward": "down", "backwards": "down"}  # fmt: skip
_DIRECTION_KEYS = {
    "left": ("ArrowLeft", "KeyA"), "right": ("ArrowRight", "KeyD"), "up": ("ArrowUp", "KeyW"), "down":
    ("ArrowDown", "KeyS"),
}  # fmt: skip
# Of the standard gamepad: buttons of the cross, and axis and sign of the left stick.
_DIRECTION_PAD = {"left": (14, 0, -1), "right": (15, 0, 1), "up": (12, 1, -1), "down": (13, 1, 1)}
_WISHES = {"fire": "Space", "attack": "Space", "shoot": "Space", "jump": "Space", "use": "KeyE", "open": "KeyE"}
_OTHER_KEYS = ("Space", *(f"Key{letter}" for letter in "JKLUIOEQXCVZFGHTYN"), *(f"Digit{digit}" for digit in range(10)))
_OTHER_PAD = (0, 1, 2, 3, 5, 4, 7, 6, 8, 9, 10, 11)
_AXIS_KEYS = (("KeyA", "KeyD"), ("KeyS", "KeyW"), ("KeyQ", "KeyE"), ("KeyZ", "KeyX"), ("KeyJ", "KeyL"),
              ("KeyK", "KeyI"))  # fmt: skip
_ARROWS = (("ArrowLeft", "ArrowRight"), ("ArrowDown", "ArrowUp"))
_STICKS = ((0, 1), (1, -1), (2, 1), (3, -1))  # axis of the gamepad and the sign of "up" or "right"


@dataclass(frozen=True)
class Button:
    """Something that is pressed or not."""

    name: str
    keys: tuple[str, ...]
    pad: tuple[int, ...]
    """Buttons of a standard gamepad."""
    stick: tuple[int, ...]
    """Axis of a standard gamepad and the sign that presses this, or empty."""
    direction: str
    """`left`, `right`, `up`, `down`, or empty: where a finger looks for it."""


@dataclass(frozen=True)
class Axis:
    """Something that is moved, and springs back."""

    name: str
    unit: str
    low: float
    high: float
    rest: float
    keys: tuple[tuple[str, str], ...]
    """Pairs: to `low`, to `high`."""
    stick: tuple[int, ...]
    """Axis of a standard gamepad and the sign that is `high`, or empty."""


@dataclass(frozen=True)
class Controls:
    """Of one action space."""

    space: ActionSpace
    buttons: tuple[Button, ...]
    axes: tuple[Axis, ...]

    @classmethod
    def of(cls, space: ActionSpace) -> Controls:
        """Combinations as in "left+fire" are what several buttons held at a time make."""
        if isinstance(space, Box):
            return cls(space, (), tuple(_axes(space)))
        names = list(space.names)
        if isinstance(space, Discrete):
            names = list(dict.fromkeys(atom for name in space.names for atom in _atoms(name)))
        return cls(space, tuple(_buttons(names[:MOST_SHOWN])), ())

    def describe(self) -> dict[str, Any]:
        """For the page, as plain JSON values."""
        return {"buttons": strict_json.encode(self.buttons), "axes": strict_json.encode(self.axes)}

    def action(self, held: Sequence[str], moved: Sequence[float]) -> Any:
        """A valid action of the space.

        held    names of buttons, in the order in which they were pressed. Where a space has no such combination, as
                many of them count as it can take, the newest first
        moved   how far each axis is from its rest, -1 (`low`) .. 1 (`high`); missing ones rest

        Raises `ActionError` for a name that is no button's, and for more axes than there are.
        """
        known = {button.name for button in self.buttons}
        for name in held:
            if name not in known:
                raise ActionError(f"held: there is no button {name[:40]!r}")
        if len(moved) > len(self.axes):
            raise ActionError(f"moved: expected at most {len(self.axes)} axes, got {len(moved)}")
        if isinstance(self.space, Discrete):
            return _discrete(self.space, held)
        if isinstance(self.space, MultiBinary):
            return np.array([name in held for name in self.space.names], np.uint8)
        return _values(self.space, self.axes, moved)


def _discrete(space: Discrete, held: Sequence[str]) -> int:
    combinations = {frozenset(_atoms(name)): index for index, name in reversed(list(enumerate(space.names)))}
    possible = [atoms for atoms in combinations if atoms <= set(held)]
    newest = {name: place for place, name in enumerate(held)}
    best = max(possible, key=lambda atoms: (len(atoms), sorted((newest[a] for a in atoms), reverse=True)), default=None)
    return 0 if best is None else combinations[best]


def _values(space: Box, axes: Sequence[Axis], moved: Sequence[float]) -> np.ndarray:
    values = [_rest(low, high) for low, high in zip(space.low, space.high, strict=True)]
    for index, (axis, share) in enumerate(zip(axes, moved, strict=False)):
        share = min(max(share, -1.0), 1.0)
        values[index] += share * ((axis.high - axis.rest) if share > 0 else (axis.rest - axis.low))
    low, high = np.asarray(space.low, np.float32), np.asarray(space.high, np.float32)
    return np.clip(np.asarray(values, np.float32), low, high)  # written so that rounding cannot leave the bounds


def _axes(space: Box) -> list[Axis]:
    count = min(len(space.low), MOST_SHOWN)
    axes = []
    for index in range(count):
        keys = _AXIS_KEYS[index : index + 1]
        if count < 4:  # the arrows do what A, D, S and W do
            keys += _ARROWS[index : index + 1]
        elif index in (2, 3):  # the arrows are the other hand's
            keys = (_ARROWS[index - 2],)
        low, high = space.low[index], space.high[index]
        stick = _STICKS[index] if index < len(_STICKS) else ()
        axes.append(Axis(space.names[index], space.units[index], low, high, _rest(low, high), keys, stick))
    return axes


def _rest(low: float, high: float) -> float:
    return min(max(0.0, low), high)


def _buttons(names: Sequence[str]) -> list[Button]:
    directions = {name: _direction(name) for name in names}
    by_direction: dict[str, list[str]] = {}
    for name, direction in directions.items():
        by_direction.setdefault(direction, []).append(name)
    keys: dict[str, tuple[str, ...]] = {}
    for direction, same in by_direction.items():
        if direction and len(same) == 1:
            keys[same[0]] = _DIRECTION_KEYS[direction]
        elif direction:  # turning and stepping to the left: one on the arrows, one on the letters
            keys |= {name: (key,) for name, key in zip(same, _DIRECTION_KEYS[direction], strict=False)}
    for name in names:
        wish = next((_WISHES[word] for word in _words(name) if word in _WISHES), "")
        if name not in keys and wish and not any(wish in taken for taken in keys.values()):
            keys[name] = (wish,)
    taken = {key for some in keys.values() for key in some}
    spare_keys = iter(key for key in _OTHER_KEYS if key not in taken)
    spare_pad = iter(_OTHER_PAD)
    buttons: list[Button] = []
    for name in names:
        direction = directions[name]
        found = keys.get(name) or tuple(itertools.islice(spare_keys, 1))
        if direction and by_direction[direction][0] == name:
            cross, *stick = _DIRECTION_PAD[direction]
            buttons.append(Button(name, found, (cross,), tuple(stick), direction))
        else:
            buttons.append(Button(name, found, tuple(itertools.islice(spare_pad, 1)), (), direction))
    return buttons


def _direction(name: str) -> str:
    return next((_DIRECTIONS[word] for word in _words(name) if word in _DIRECTIONS), "")


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z]+", name.lower())


def _atoms(name: str) -> list[str]:
    """ "left+fire" -> [left, fire]; "noop" -> []."""
    return [atom for atom in name.split("+") if atom and atom.lower() not in _REST]
