"""The scripted player of the demo."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from dsa_runtime import Box, Discrete, MultiBinary
from dsa_runtime.actions import ActionSpace
from dsa_runtime.commands.player import ScriptedPlayer, describe

GAME = Discrete(6, ("noop", "left", "right", "fire", "left+fire", "right+fire"))
SIMPLE = Discrete(4, ("idle", "turn_left", "turn_right", "shoot"))
PAD = MultiBinary(4, ("turn_left", "turn_right", "attack", "use"))
OTHER = Discrete(3, ("up", "down", "stay"))
ARM = Box((-1.0, 0.0, -0.1), (1.0, 5.0, 0.1), ("x", "y", "grip"), ("m", "m", "1"))
SPACES: list[ActionSpace] = [GAME, SIMPLE, PAD, OTHER, ARM, MultiBinary(2, ("a", "b")), Discrete(1, ("only",))]


@pytest.mark.parametrize("space", SPACES)
def test_every_action_is_valid_and_depends_on_the_tick_alone(space: ActionSpace) -> None:
    first, second = ScriptedPlayer(space), ScriptedPlayer(space)
    ticks = range(400)
    actions = [space.encode(first.action(tick)) for tick in ticks]
    again = [space.encode(second.action(tick)) for tick in reversed(ticks)]
    np.testing.assert_array_equal(actions, again[::-1])


@pytest.mark.parametrize(("space", "actions"), [(GAME, 6), (SIMPLE, 4), (PAD, 6)])
def test_a_world_that_turns_and_fires_is_looked_around_in(space: ActionSpace, actions: int) -> None:
    player = ScriptedPlayer(space)
    words = Counter(player.describe(tick) for tick in range(94))  # one round of the script
    assert len(words) == actions
    turns = {side: sum(count for word, count in words.items() if side in word) for side in ("left", "right")}
    assert turns["left"] == turns["right"] > 0, "a round must end facing where it began"


def test_both_spaces_are_played_alike() -> None:
    game, pad = ScriptedPlayer(GAME), ScriptedPlayer(PAD)
    for tick in range(120):
        words = pad.describe(tick).replace("turn_", "").replace("attack", "fire")
        assert game.describe(tick) == words


@pytest.mark.parametrize(("space", "count"), [(OTHER, 3), (MultiBinary(2, ("a", "b")), 2)])
def test_other_worlds_see_every_action(space: ActionSpace, count: int) -> None:
    player = ScriptedPlayer(space)
    assert len({player.describe(tick) for tick in range(100)}) == count


def test_values_sweep_their_whole_range() -> None:
    player = ScriptedPlayer(ARM)
    actions = np.array([player.action(tick) for tick in range(300)])
    low, high = np.array(ARM.low), np.array(ARM.high)
    span = (actions.max(axis=0) - actions.min(axis=0)) / (high - low)
    assert (span > 0.9).all()


def test_actions_in_words() -> None:
    assert describe(GAME, 4) == "left+fire"
    assert describe(PAD, np.array([1, 0, 1, 0])) == "turn_left+attack"
    assert describe(PAD, np.zeros(4)) == "noop"
    assert describe(ARM, np.array([0.5, 2.0, 0.0])) == "x +0.5  y +2 ..."
