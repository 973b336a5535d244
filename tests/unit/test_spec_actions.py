"""Action spaces: what they accept, what they refuse, and how actions are encoded."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from dsa_runtime import ActionError, Box, Discrete, MultiBinary, WorldError

BUTTONS = MultiBinary(3, ("a", "b", "c"))
STICKS = Box((-1.0, 0.0), (1.0, 10.0), ("turn", "speed"), ("rad/s", "m/s"))
CHOICE = Discrete(3, ("x", "y", "z"))


@pytest.mark.parametrize(
    ("space", "action", "encoded"),
    [
        (CHOICE, 2, [0, 0, 1]),
        (CHOICE, np.int64(0), [1, 0, 0]),
        (CHOICE, np.array(1), [0, 1, 0]),
        (BUTTONS, [1, 0, 1], [1, 0, 1]),
        (BUTTONS, (True, False, False), [1, 0, 0]),
        (BUTTONS, np.array([0, 1, 1], np.uint8), [0, 1, 1]),
        (STICKS, [0.5, 5], [0.5, 0.0]),
        (STICKS, np.array([-1, 10], np.float32), [-1.0, 1.0]),
        (
            Box((0.1,), (0.3,), ("x",), ("",)),
            np.array([0.3], np.float32),
            [1.0],
        ),  # a bound given in float32 is inside
    ],
)
def test_encoding(space: Any, action: Any, encoded: list[float]) -> None:
    result = space.encode(action)
    assert (result.dtype, result.shape) == (np.float32, (space.width,))
    np.testing.assert_allclose(result, encoded, atol=1e-6)


@pytest.mark.parametrize(
    ("space", "action"),
    [
        (CHOICE, 3), (CHOICE, -1), (CHOICE, 1.0), (CHOICE, True), (CHOICE, np.bool_(True)), (CHOICE, "x"),
        (CHOICE, None), (CHOICE, [1]), (CHOICE, math.nan), (CHOICE, 2**80),
        (BUTTONS, [1, 0]), (BUTTONS, [1, 0, 2]), (BUTTONS, [1, 0, -1]), (BUTTONS, [0.0, 1.0, 0.0]),
        (BUTTONS, 1), (BUTTONS, "101"), (BUTTONS, [[1, 0, 1]]), (BUTTONS, [1, [0], 1]),
        (BUTTONS, [1, None, 1]),
        (STICKS, [0.0, 10.1]), (STICKS, [-1.1, 5]), (STICKS, [math.nan, 5]), (STICKS, [0, math.inf]),
        (STICKS, [0.0]), (STICKS, 0.5), (STICKS, ["0", "1"]), (STICKS, [0j, 1]), (STICKS, None),
        (STICKS, {"turn": 1, "speed": 2}),
    ],
)  # fmt: skip
def test_refusal(space: Any, action: Any) -> None:
    with pytest.raises(ActionError, match="expected"):
        space.encode(action)


def test_a_box_error_names_the_component() -> None:
    with pytest.raises(ActionError, match=r"component 1 \(speed\).*\[0\.0, 10\.0\].*11"):
        STICKS.encode([0, 11])


def test_validation_returns_a_copy() -> None:
    action = np.zeros(3, np.uint8)
    kept = BUTTONS.validate(action)
    action[:] = 1
    assert not kept.any()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Discrete(0, ()), lambda: Discrete(2, ("a",)), lambda: Discrete(2, ("a", "")),
        lambda: Box((0.0,), (0.0,), ("x",), ("",)), lambda: Box((0.0,), (math.inf,), ("x",), ("",)),
        lambda: Box((0.0,), (1.0, 2.0), ("x",), ("",)), lambda: Box((0.0,), (1.0,), ("x",), ()),
        lambda: MultiBinary(2, ("a", "a")),
    ],
)  # fmt: skip
def test_impossible_spaces(make: Any) -> None:
    with pytest.raises(WorldError):
        make()
