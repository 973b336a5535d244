"""Rewind: a session that is back at a tick draws from there what it drew before."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from dsa_runtime import EngineError, Session, SessionError, World, load_world
from tests.play import ACTIONS, FEEDBACK, held, play
from tests.stages import Gate, patch_stage, settle
from tests.tiny_world import WINDOW, write_tiny_world


@pytest.fixture
def session(tiny_world: World) -> Iterator[Session]:
    with tiny_world.session(7, history=8) as opened:
        yield opened


@pytest.fixture(scope="module")
def expected(tiny_world: World) -> list[np.ndarray]:
    with tiny_world.session(7) as undisturbed:
        return play(undisturbed)


@pytest.fixture(scope="module")
def sink_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with load_world(write_tiny_world(tmp_path_factory.mktemp("worlds") / "sink", sink=1, window=4), threads=1) as world:
        yield world


class TestRewind:
    @pytest.mark.parametrize("ticks", range(9))  # the history; more than the window is long
    def test_it_goes_back_and_on_from_there(self, session: Session, expected: list[np.ndarray], ticks: int) -> None:
        play(session)
        picture, at = session.rewind(ticks), len(ACTIONS) - ticks
        assert session.tick == at
        np.testing.assert_array_equal(picture, expected[at - 1])
        np.testing.assert_array_equal(play(session, ACTIONS[at:]), expected[at:].copy() if ticks else [])

    def test_another_way_from_there(self, tiny_world: World, session: Session) -> None:
        """Back, along another path, back across the fork, and the first path again."""
        play(session, ACTIONS[:9])
        session.rewind(4)
        other = play(session, [3, 3])
        with tiny_world.session(7) as straight:
            np.testing.assert_array_equal(play(straight, [*ACTIONS[:5], 3, 3])[5:], other)
        session.rewind(5)
        with tiny_world.session(7) as straight:
            np.testing.assert_array_equal(play(straight)[2:], play(session, ACTIONS[2:]))

    def test_to_the_start(self, session: Session, expected: list[np.ndarray]) -> None:
        taken = session.snapshot()
        play(session, ACTIONS[:8])
        picture = session.rewind(8)
        assert session.snapshot() == taken
        np.testing.assert_array_equal(picture, session.restore(taken))
        np.testing.assert_array_equal(play(session), expected)

    def test_step_by_step_and_all_at_once(self, session: Session, expected: list[np.ndarray]) -> None:
        play(session)
        for number in range(len(ACTIONS) - 2, len(ACTIONS) - 6, -1):
            np.testing.assert_array_equal(session.rewind(1), expected[number])
        one = session.snapshot()
        play(session, ACTIONS[8:])
        session.rewind(4)
        assert session.snapshot() == one

    def test_what_the_controller_has_learned_is_undone(self, tiny_world: World) -> None:
        with tiny_world.session(7, controller=FEEDBACK, history=8) as session:
            first = [session.step(action, math.inf) for action in ACTIONS]
            session.rewind(8)
            again = [session.step(action, math.inf) for action in ACTIONS[4:]]
        said = [(tick.threshold, tick.steps) for tick in first[4:]]
        assert [(tick.threshold, tick.steps) for tick in again] == said
        assert len(set(said)) > 4

    def test_with_a_sink(self, sink_world: World) -> None:
        with sink_world.session(7, history=6) as session:
            frames = play(session)
            settle(session)
            slots, used = session._window.slots, sink_world._cache.used
            for ticks in (1, 3, 6):
                np.testing.assert_array_equal(session.rewind(ticks), frames[-ticks - 1])
                assert session._window.slots[0] == slots[0]  # the first frame for ever
                assert sink_world._cache.used == used - ticks
                np.testing.assert_array_equal(play(session, ACTIONS[-ticks:]), frames[-ticks:])
                settle(session)
                assert sink_world._cache.used == used

    def test_the_limit_and_its_reason_are_named(self, tiny_world: World) -> None:
        with tiny_world.session(7, history=3) as session:
            for made in range(6):
                can = min(made, 3)
                with pytest.raises(SessionError, match=rf"^ticks: .* 0\.\.{can}, .*history=3.* {can} ticks"):
                    session.rewind(can + 1)
                play(session, [made % 4])
            session.rewind(2)
            with pytest.raises(SessionError, match=r"history=3.* 1 ticks"):
                session.rewind(2)
            session.rewind(1)
            assert session.tick == 3

    @pytest.mark.parametrize("ticks", [-1, 1.5, True, None, "1", 2**70])
    def test_bad_numbers(self, session: Session, expected: list[np.ndarray], ticks: Any) -> None:
        frames = play(session, ACTIONS[:4])
        with pytest.raises(SessionError, match=r"^ticks: "):
            session.rewind(ticks)
        np.testing.assert_array_equal([*frames, *play(session, ACTIONS[4:])], expected)

    def test_without_history(self, tiny_world: World, expected: list[np.ndarray]) -> None:
        with tiny_world.session(7) as session:
            frames = play(session, ACTIONS[:4])
            np.testing.assert_array_equal(session.rewind(0), frames[-1])
            with pytest.raises(SessionError, match="history=0"):
                session.rewind(1)
            np.testing.assert_array_equal(play(session, ACTIONS[4:]), expected[4:])

    @pytest.mark.parametrize("how", ["fork", "restore", "reset"])
    def test_the_history_begins_where_the_session_does(
        self, session: Session, expected: list[np.ndarray], how: str
    ) -> None:
        play(session, ACTIONS[:4])
        at = 0 if how == "reset" else 4
        if how == "fork":
            [session] = session.fork()
        elif how == "restore":
            session.restore(session.snapshot())
        else:
            session.reset(7)
        with pytest.raises(SessionError, match=r"history=8.* 0 ticks"):
            session.rewind(1)
        play(session, ACTIONS[at : at + 6])
        with pytest.raises(SessionError, match=r"history=8.* 6 ticks"):
            session.rewind(7)
        session.rewind(6)
        np.testing.assert_array_equal(play(session, ACTIONS[at:]), expected[at:])
        session.close()

    def test_a_tick_that_is_late_is_undone_too(self, tiny_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        with tiny_world.session(7, on_miss="repeat", history=4) as session:
            frames = play(session, ACTIONS[:3])
            with monkeypatch.context() as patch:
                gate = Gate(patch, "denoise")
                assert session.step(3, 20.0).status == "repeated"
                threading.Timer(0.05, gate.open.set).start()
                np.testing.assert_array_equal(session.rewind(1), frames[-1])
                gate = Gate(patch, "denoise")
                tick = session.step(3, 20.0)
                gate.open.set()
            assert (tick.status, tick.tick, tick.frame_tick) == ("repeated", 3, 2)
            np.testing.assert_array_equal(tick.pixels, frames[-1])

    def test_one_that_fails_changes_nothing(
        self, session: Session, expected: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        play(session, ACTIONS[:6])

        def fail(*_: Any) -> None:
            raise EngineError("decode: made to fail")

        with monkeypatch.context() as patch:
            patch_stage(patch, "decode", fail)
            with pytest.raises(EngineError, match="made to fail"):
                session.rewind(3)
        assert session.tick == 6
        np.testing.assert_array_equal(session.rewind(6), session.rewind(0))
        np.testing.assert_array_equal(play(session), expected)

    def test_a_history_costs_one_slot_per_tick(self, tiny_world: World) -> None:
        before = held(tiny_world)
        with tiny_world.session(7, history=5) as session:
            for made in range(9):
                settle(session)
                used, reserved = held(tiny_world)
                assert used - before[0] == WINDOW + min(made, 5)
                assert reserved - before[1] == WINDOW + 1 + 5
                play(session, [0])
            session.rewind(4)
            assert held(tiny_world)[0] - before[0] == WINDOW + 1
        assert held(tiny_world) == before
