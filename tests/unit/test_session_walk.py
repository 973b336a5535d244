"""Random walks of sessions over everything they can do, against a model that knows only reset and step.

The model remembers for each session from which seed and by which calls of `step` it came to be where it is, and
draws its newest frame by making them all again from the start. So no fork, rewind, restore or neighbour can have
left a trace in a frame, a threshold or a step count.
"""

from __future__ import annotations

import gc
import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from dsa_runtime import Controller, Session, World, load_world
from dsa_runtime.replay import verify_replay
from tests.tiny_world import write_tiny_world

HISTORY = 5  # more than the window is long
MOST_SESSIONS = 6

Call = tuple[int, int | None]
"""Action and steps of a call of `step`."""


class Way(NamedTuple):
    """How a session came to be where it is."""

    seed: int
    calls: tuple[Call, ...] = ()


class Seen(NamedTuple):
    """What a call of `step` said."""

    pixels: str
    steps: int
    threshold: float | None
    confidence: float


class Player:
    """A session and what the model knows of it."""

    def __init__(self, session: Session, way: Way, undoable: int = 0) -> None:
        self.session, self.way, self.undoable = session, way, undoable


class Walk(RuleBasedStateMachine):
    world: World
    controller: Controller
    known: dict[Way, Seen]

    def __init__(self) -> None:
        super().__init__()
        self.before = self.held()
        self.model = self.world.session(0, controller=self.controller)
        self.players = [Player(self.open(0), Way(0))]
        self.snapshots: list[tuple[bytes, Way]] = []

    def open(self, seed: int) -> Session:
        return self.world.session(seed, controller=self.controller, history=HISTORY, record=True)

    def held(self) -> tuple[int, int]:
        gc.collect()
        return self.world._cache.used, self.world._cache._reserved

    def expected(self, way: Way) -> Seen:
        if way not in self.known:
            self.model.reset(way.seed)
            for action, steps in way.calls:
                tick = self.model.step(action, math.inf, steps=steps)
            self.known[way] = Seen(_digest(tick.pixels.tobytes()), tick.steps, tick.threshold, tick.confidence)
        return self.known[way]

    def pick(self, number: int) -> Player:
        return self.players[number % len(self.players)]

    def check_picture(self, player: Player, picture: str) -> None:
        if player.way.calls:  # the start's is a picture, or what the decoder makes of it
            assert picture == self.expected(player.way).pixels

    # Stepping comes up more often than the rest, or walks would not leave the start.
    @rule(
        number=st.integers(0, 99),
        calls=st.lists(st.tuples(st.integers(0, 3), st.none() | st.integers(1, 4)), min_size=1, max_size=5),
    )
    def step(self, number: int, calls: list[Call]) -> None:
        player = self.pick(number)
        for action, steps in calls:
            tick = player.session.step(action, math.inf, steps=steps)
            player.way = Way(player.way.seed, (*player.way.calls, (action, steps)))
            player.undoable = min(player.undoable + 1, HISTORY)
            seen = Seen(_digest(tick.pixels.tobytes()), tick.steps, tick.threshold, tick.confidence)
            assert seen == self.expected(player.way)

    @rule(actions=st.lists(st.integers(0, 3), min_size=1, max_size=3))
    def step_all_in_turn(self, actions: list[int]) -> None:
        for action in actions:
            for number in range(len(self.players)):
                self.step(number, [(action, None)])

    @precondition(lambda self: len(self.players) < MOST_SESSIONS)
    @rule(number=st.integers(0, 99), n=st.integers(1, 2))
    def fork(self, number: int, n: int) -> None:
        parent = self.pick(number)
        self.players += [Player(branch, parent.way) for branch in parent.session.fork(n)]

    @rule(number=st.integers(0, 99), ticks=st.integers(0, HISTORY))
    def rewind(self, number: int, ticks: int) -> None:
        player = self.pick(number)
        ticks = min(ticks, player.undoable)
        picture = player.session.rewind(ticks)
        calls = player.way.calls
        player.way, player.undoable = Way(player.way.seed, calls[: len(calls) - ticks]), player.undoable - ticks
        self.check_picture(player, _digest(picture.tobytes()))

    @rule(number=st.integers(0, 99))
    def snapshot(self, number: int) -> None:
        player = self.pick(number)
        self.snapshots.append((player.session.snapshot(), player.way))

    @precondition(lambda self: self.snapshots)
    @rule(number=st.integers(0, 99), which=st.integers(0, 99))
    def restore(self, number: int, which: int) -> None:
        player, (taken, way) = self.pick(number), self.snapshots[which % len(self.snapshots)]
        picture = player.session.restore(taken)
        player.way, player.undoable = way, 0
        self.check_picture(player, _digest(picture.tobytes()))

    @rule(number=st.integers(0, 99), seed=st.integers(0, 3))
    def reset(self, number: int, seed: int) -> None:
        player = self.pick(number)
        player.session.reset(seed)
        player.way, player.undoable = Way(seed), 0

    @precondition(lambda self: len(self.players) < MOST_SESSIONS)
    @rule(seed=st.integers(0, 3))
    def open_another(self, seed: int) -> None:
        self.players.append(Player(self.open(seed), Way(seed)))

    @precondition(lambda self: len(self.players) > 1)
    @rule(number=st.integers(0, 99), properly=st.booleans())
    def close(self, number: int, properly: bool) -> None:
        player = self.players.pop(number % len(self.players))
        if properly:
            player.session.close()

    @invariant()
    def every_session_is_where_the_model_says(self) -> None:
        for player in self.players:
            assert (player.session.seed, player.session.tick) == (player.way.seed, len(player.way.calls))

    def teardown(self) -> None:
        for player in self.players:
            recording = player.session.recording
            assert recording is not None
            assert recording.first_tick + len(recording.decisions) == len(player.way.calls)
            assert verify_replay(self.world, recording) == len(recording.decisions)
            player.session.close()
        self.model.close()
        assert self.held() == self.before


def _digest(pixels: bytes) -> str:
    return hashlib.blake2b(pixels, digest_size=16).hexdigest()


@pytest.fixture(scope="module", autouse=True)
def quick_collections() -> Iterator[None]:
    """Without what the whole test run has on its heap, torch above all; these tests collect by the hundreds."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(params=[0, 1], ids=["no sink", "sink"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with load_world(
        write_tiny_world(tmp_path / "tiny", sink=request.param, window=3 + request.param), threads=1
    ) as world:
        yield world


def walk(world: World, controller: Controller, examples: int) -> None:
    class Here(Walk):
        pass

    Here.world, Here.controller, Here.known = world, controller, {}
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run_state_machine_as_test(
        Here,
        settings=settings(max_examples=examples, stateful_step_count=25, deadline=None, suppress_health_check=checks),
    )


CONTROLLERS = [Controller(threshold=0.6), Controller(target_steps=2.4, settle_ticks=4), Controller(policy="paper")]


@pytest.mark.parametrize("controller", CONTROLLERS, ids=["threshold", "target", "paper"])
def test_no_way_through_a_sessions_life_leaves_a_trace(world: World, controller: Controller) -> None:
    walk(world, controller, 6)


@pytest.mark.slow
@pytest.mark.parametrize("controller", CONTROLLERS, ids=["threshold", "target", "paper"])
def test_not_even_a_rare_one(world: World, controller: Controller) -> None:
    walk(world, controller, 100)
