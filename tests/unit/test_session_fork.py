"""Fork: branches draw what the session would have drawn, share its past, and never touch it."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from dsa_runtime import Controller, Session, SessionError, World
from tests.play import ACTIONS, FEEDBACK, held, play
from tests.stages import Gate, settle


@pytest.fixture
def session(tiny_world: World) -> Iterator[Session]:
    with tiny_world.session(7, history=8) as opened:
        yield opened


@pytest.fixture(scope="module")
def expected(tiny_world: World) -> list[np.ndarray]:
    with tiny_world.session(7) as undisturbed:
        return play(undisturbed)


class TestFork:
    def test_branches_are_equal_given_equal_actions(
        self, tiny_world: World, session: Session, expected: list[np.ndarray]
    ) -> None:
        play(session, ACTIONS[:4])
        branches = session.fork(3)
        for branch in (*branches, session):
            assert (branch.tick, branch.seed, branch.controller, branch.on_miss) == (4, 7, Controller(), "best_effort")
            np.testing.assert_array_equal(play(branch, ACTIONS[4:]), expected[4:])
        for branch in branches:
            branch.close()

    def test_branches_differ_given_others_and_never_touch_one_another(
        self, tiny_world: World, expected: list[np.ndarray]
    ) -> None:
        """Four branches and their parent in turn, tick by tick, each on a path that is also walked alone."""
        paths = [[(action + number) % 4 for action in ACTIONS[4:]] for number in range(5)]
        alone = []
        for path in paths:
            with tiny_world.session(7) as session:
                alone.append(play(session, [*ACTIONS[:4], *path])[4:])
        assert len({frames[0].tobytes() for frames in alone[:4]}) == 4
        with tiny_world.session(7) as parent:
            play(parent, ACTIONS[:4])
            family = [parent, *parent.fork(4)]
            together: list[list[np.ndarray]] = [[] for _ in family]
            for number in range(len(paths[0])):
                for index, member in enumerate(family):
                    together[index] += play(member, [paths[index][number]])
            for branch in family[1:]:
                branch.close()
        np.testing.assert_array_equal(together, alone)

    def test_branches_play_on_threads_at_once(self, tiny_world: World, session: Session) -> None:
        play(session, ACTIONS[:3])
        paths = [[number % 4, *ACTIONS] for number in range(8)]
        in_turn, at_once = session.fork(8), session.fork(8)
        alone = [play(branch, path) for branch, path in zip(in_turn, paths, strict=True)]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(play, at_once, paths))
        np.testing.assert_array_equal(together, alone)
        for branch in in_turn + at_once:
            branch.close()

    def test_branches_share_their_past_and_cost_no_threads(self, tiny_world: World, session: Session) -> None:
        play(session)
        settle(session)
        pools, used, threads = tiny_world._cache.pools, tiny_world._cache.used, threading.active_count()
        branches = session.fork(64)
        assert tiny_world._cache.pools is pools
        assert tiny_world._cache.used == used
        assert threading.active_count() == threads
        assert {branch._window.slots for branch in branches} == {session._window.slots}
        for number, branch in enumerate(branches[:16]):
            play(branch, [number % 4])
            settle(branch)
            assert tiny_world._cache.used == used + number + 1  # only what is its own
        for branch in branches:
            branch.close()
        assert tiny_world._cache.used == used

    def test_closing_or_dropping_them_gives_everything_back(self, tiny_world: World) -> None:
        before = held(tiny_world)
        parent = tiny_world.session(7, history=2)
        play(parent)
        branches = [*parent.fork(5), *parent.fork()[0].fork(2)]  # one is dropped at once
        for branch in branches:
            play(branch)
        parent.close()
        for branch in branches[::2]:
            branch.close()
        assert held(tiny_world) != before
        del branch, branches
        assert held(tiny_world) == before

    def test_branches_outlive_their_parent(self, tiny_world: World, expected: list[np.ndarray]) -> None:
        with tiny_world.session(7) as parent:
            play(parent, ACTIONS[:5])
            [branch] = parent.fork()
        with tiny_world.session(1) as other:  # takes the parent's slots
            play(other)
        with branch:
            np.testing.assert_array_equal(play(branch, ACTIONS[5:]), expected[5:])

    def test_a_branch_of_a_branch(self, session: Session, expected: list[np.ndarray]) -> None:
        family = [session]
        for number in range(len(ACTIONS)):
            np.testing.assert_array_equal(play(family[-1], [ACTIONS[number]])[0], expected[number])
            family += family[-1].fork()
        for number, member in enumerate(family[1:-1], 1):
            np.testing.assert_array_equal(play(member, ACTIONS[number + 1 :]), expected[number + 1 :])
        for member in family:
            member.close()

    def test_a_branch_has_its_parents_settings(self, tiny_world: World) -> None:
        options: dict[str, Any] = {"controller": FEEDBACK, "on_miss": "repeat", "history": 3}
        with tiny_world.session(7, **options) as parent:
            ticks = [parent.step(action, math.inf) for action in ACTIONS[:7]]
            with parent.fork()[0] as branch:
                assert (branch.controller, branch.on_miss, branch.latency) == (FEEDBACK, "repeat", parent.latency)
                one, two = (session.step(0, math.inf) for session in (parent, branch))
                assert (one.threshold, one.steps) == (two.threshold, two.steps)
                assert one.threshold != ticks[0].threshold
                play(branch, ACTIONS[:2])
                branch.rewind(3)
                branch.controller = Controller(policy="fixed")  # its own
                assert branch.step(0, math.inf).steps == 4
                assert parent.controller == FEEDBACK

    def test_a_branch_repeats_its_parents_picture(self, tiny_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        with tiny_world.session(7, on_miss="repeat") as parent:
            shown = play(parent, ACTIONS[:3])[-1]
            with parent.fork()[0] as branch, monkeypatch.context() as patch:
                gate = Gate(patch, "denoise")
                tick = branch.step(0, 20.0)
                gate.open.set()
                assert (tick.status, tick.tick, tick.frame_tick) == ("repeated", 3, 2)
                np.testing.assert_array_equal(tick.pixels, shown)

    def test_while_a_tick_is_late(self, tiny_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        with tiny_world.session(7, on_miss="repeat") as parent:
            with monkeypatch.context() as patch:
                gate = Gate(patch, "denoise")
                assert parent.step(3, 20.0).status == "repeated"
                threading.Timer(0.05, gate.open.set).start()
                [branch] = parent.fork()
            assert (parent.tick, branch.tick) == (1, 1)
            np.testing.assert_array_equal(play(branch), play(parent))
            branch.close()

    @pytest.mark.parametrize("n", [0, -1, 1.5, True, None, "2", 1 << 17])
    def test_bad_numbers(self, tiny_world: World, session: Session, n: Any) -> None:
        before = held(tiny_world)
        with pytest.raises(SessionError, match=r"^n: "):
            session.fork(n)
        assert held(tiny_world) == before

    def test_of_a_closed_session(self, tiny_world: World) -> None:
        session = tiny_world.session(7)
        taken = session.snapshot()
        session.close()
        for call in (session.fork, session.snapshot, lambda: session.rewind(0), lambda: session.restore(taken)):
            with pytest.raises(SessionError, match="closed"):
                call()

    def test_without_memory_it_changes_nothing(
        self, tiny_world: World, session: Session, expected: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        play(session, ACTIONS[:4])
        settle(session)
        before = held(tiny_world)

        def fail(*_: Any) -> None:
            raise MemoryError

        with monkeypatch.context() as patch:
            patch.setattr(tiny_world._cache, "_grow", fail)
            with pytest.raises(MemoryError):
                session.fork(1 << 16)
        assert held(tiny_world) == before
        np.testing.assert_array_equal(play(session, ACTIONS[4:]), expected[4:])
