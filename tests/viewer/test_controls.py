"""Controls: keys for every action space, and valid actions from whatever is held."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dsa_runtime import ActionError, Box, Discrete, MultiBinary
from dsa_runtime.spec import ActionSpace
from dsa_runtime.viewer.controls import MOST_SHOWN, Controls

LINE = Discrete(6, ("noop", "left", "right", "fire", "left+fire", "right+fire"))
PAD = MultiBinary(4, ("turn_left", "strafe_left", "jump", "attack"))
ARM = Box((-1.0, 0.0, -2.0), (1.0, 4.0, -1.0), ("shoulder", "throttle", "lift"), ("rad/s", "", "m"))


def keys(space: ActionSpace) -> dict[str, tuple[str, ...]]:
    return {button.name: button.keys for button in Controls.of(space).buttons}


def test_combinations_are_several_buttons_and_doing_nothing_is_none() -> None:
    assert keys(LINE) == {"left": ("ArrowLeft", "KeyA"), "right": ("ArrowRight", "KeyD"), "fire": ("Space",)}
    sides = {button.name: (button.direction, button.pad, button.stick) for button in Controls.of(LINE).buttons}
    assert sides == {"left": ("left", (14,), (0, -1)), "right": ("right", (15,), (0, 1)), "fire": ("", (0,), ())}


@pytest.mark.parametrize(
    ("held", "action"),
    [
        ((), 0),
        (("left",), 1),
        (("left", "fire"), 4),
        (("fire", "right"), 5),
        (("left", "right"), 2),  # not at the same time: the newer one counts
        (("right", "left"), 1),
        (("left", "right", "fire"), 5),
        (("left", "fire", "right"), 5),
        (("right", "fire", "left"), 4),
    ],
)
def test_what_is_held_is_an_action(held: tuple[str, ...], action: int) -> None:
    assert Controls.of(LINE).action(held, ()) == action


def test_two_ways_to_the_left_share_arrows_and_letters() -> None:
    found = keys(PAD)
    assert found["turn_left"] == ("ArrowLeft",) and found["strafe_left"] == ("KeyA",)
    assert found["jump"] == ("Space",) and found["attack"] == ("KeyJ",)
    np.testing.assert_array_equal(Controls.of(PAD).action(("attack", "turn_left"), ()), [1, 0, 0, 1])


def test_axes_spring_back_to_what_is_nearest_to_zero() -> None:
    controls = Controls.of(ARM)
    assert [axis.rest for axis in controls.axes] == [0.0, 0.0, -1.0]
    for moved, values in {
        (): [0, 0, -1], (1, 1, 1): [1, 4, -1], (-1, -1, -1): [-1, 0, -2], (0.5, 0.5): [0.5, 2, -1], (9,): [1, 0, -1],
    }.items():  # fmt: skip
        np.testing.assert_allclose(controls.action((), moved), values)


@pytest.mark.parametrize(
    "space",
    [
        LINE,
        PAD,
        ARM,
        Discrete(3, ("a", "b", "c")),
        Discrete(300, tuple(f"n{index}" for index in range(300))),
        MultiBinary(2, ("noop", "left+right")),
        Box((0.1,) * 12, (0.3,) * 12, tuple(f"joint {index}" for index in range(12)), ("rad",) * 12),
    ],
    ids=lambda space: f"{type(space).__name__}{space.width}",
)
def test_whatever_is_held_is_valid_and_no_key_means_two_things(space: ActionSpace) -> None:
    controls = Controls.of(space)
    assert len(controls.buttons) <= MOST_SHOWN
    names = [button.name for button in controls.buttons[:4]]
    for count in range(len(names) + 1):
        for held in itertools.permutations(names, count):
            space.validate(controls.action(held, ()))
    for share in (-1.0, -1 / 3, 0.0, 1 / 7, 1.0, float(np.float32(0.1))):
        space.validate(controls.action((), [share] * len(controls.axes)))
    codes = [key for button in controls.buttons for key in button.keys]
    codes += [key for axis in controls.axes for pair in axis.keys for key in pair]
    assert len(set(codes)) == len(codes)
    assert not {"KeyP", "KeyB", "KeyR", "KeyM", "Comma", "Period", "Slash", "Escape"} & set(codes), "the page's own"


def test_without_combinations_every_action_is_a_button_and_the_first_one_is_at_rest() -> None:
    controls = Controls.of(Discrete(3, ("a", "b", "c")))
    assert [controls.action(held, ()) for held in [(), ("b",), ("b", "c"), ("c", "a")]] == [0, 1, 2, 0]


def test_what_is_no_control_is_refused() -> None:
    with pytest.raises(ActionError, match="no button 'up'"):
        Controls.of(LINE).action(("up",), ())
    with pytest.raises(ActionError, match="at most 0 axes"):
        Controls.of(LINE).action((), (0.0,))
