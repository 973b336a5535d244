"""Snapshot, restore, fork and rewind: wherever a session goes on from, it draws the frames it would have drawn."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json
import math
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsa_runtime import Controller, EngineError, Session, SessionError, SnapshotError, World, load_world, snapshot
from dsa_runtime.recording import Recording
from dsa_runtime.replay import verify_replay
from tests.stages import Gate, patch_stage, settle
from tests.tiny_world import WINDOW, write_tiny_world

ACTIONS = [0, 1, 3, 2, 2, 0, 1, 1, 3, 0, 2, 3]
FEEDBACK = Controller(target_steps=2.4, settle_ticks=4)  # its threshold moves with every tick


def play(session: Session, actions: Sequence[int] = ACTIONS, **options: Any) -> list[np.ndarray]:
    return [session.step(action, math.inf, **options).pixels for action in actions]


def held(world: World) -> tuple[int, int]:
    """Slots in use, and slots promised, by sessions that are not garbage."""
    gc.collect()
    return world._cache.used, world._cache._reserved


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


class TestSnapshot:
    @pytest.mark.parametrize("at", range(0, len(ACTIONS), 3))
    def test_a_session_goes_back_to_any_tick_and_on_from_there(
        self, session: Session, expected: list[np.ndarray], at: int
    ) -> None:
        play(session, ACTIONS[:at])
        taken = session.snapshot()
        play(session, [3, 0, 3])
        picture = session.restore(taken)
        assert (session.tick, session.seed) == (at, 7)
        if at:
            np.testing.assert_array_equal(picture, expected[at - 1])
        np.testing.assert_array_equal(play(session, ACTIONS[at:]), expected[at:])

    def test_taking_one_changes_nothing(self, session: Session, expected: list[np.ndarray]) -> None:
        frames = []
        for action in ACTIONS:
            frames += play(session, [action])
            session.snapshot()
        np.testing.assert_array_equal(frames, expected)

    def test_it_depends_on_the_state_only(self, tiny_world: World, session: Session) -> None:
        play(session)
        taken = session.snapshot()
        assert session.snapshot() == taken
        session.restore(taken)
        assert session.snapshot() == taken
        with tiny_world.session(0) as other:
            other.restore(taken)
            assert other.snapshot() == taken

    def test_another_session_takes_over_at_any_tick(self, tiny_world: World, expected: list[np.ndarray]) -> None:
        frames = []
        with tiny_world.session(7) as one, tiny_world.session(1, threads=2, threshold=0.1) as two:
            for number, action in enumerate(ACTIONS):
                here, there = (one, two) if number % 2 else (two, one)
                here.restore(there.snapshot())
                frames += play(here, [action])
        np.testing.assert_array_equal(frames, expected)

    def test_the_controller_and_what_it_has_learned_come_along(self, tiny_world: World) -> None:
        with tiny_world.session(7, controller=FEEDBACK) as session, tiny_world.session(7) as other:
            play(session, ACTIONS[:7])
            taken = session.snapshot()
            session.step(0, math.inf)  # so that its feedback moves on
            other.restore(taken)
            assert other.controller == FEEDBACK
            session.restore(taken)
            for action in ACTIONS * 3:
                one, two = session.step(action, math.inf), other.step(action, math.inf)
                np.testing.assert_array_equal(one.pixels, two.pixels)
                assert (one.steps, one.threshold) == (two.steps, two.threshold)

    def test_it_sees_a_frame_that_is_not_committed_yet(
        self, session: Session, expected: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        play(session, ACTIONS[:2])
        settle(session)
        with monkeypatch.context() as patch:
            gate = Gate(patch, "commit")
            play(session, ACTIONS[2:3])
            threading.Timer(0.05, gate.open.set).start()
            taken = session.snapshot()
        session.reset(0)
        session.restore(taken)
        np.testing.assert_array_equal(play(session, ACTIONS[3:]), expected[3:])

    def test_it_sees_a_tick_that_is_late(self, tiny_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        with tiny_world.session(7, on_miss="repeat") as session:
            with monkeypatch.context() as patch:
                gate = Gate(patch, "denoise")
                assert session.step(3, 20.0).status == "repeated"
                threading.Timer(0.05, gate.open.set).start()
                taken = session.snapshot()
            frames = play(session)
            assert session.restore(taken).any()
            assert session.tick == 1
            np.testing.assert_array_equal(play(session), frames)

    def test_what_is_restored_is_copied(self, session: Session, expected: list[np.ndarray]) -> None:
        play(session, ACTIONS[:4])
        taken = bytearray(session.snapshot())
        session.restore(taken)[:] = 0
        taken[:] = bytes(len(taken))
        np.testing.assert_array_equal(play(session, ACTIONS[4:]), expected[4:])

    def test_it_takes_no_more_slots(self, tiny_world: World, session: Session) -> None:
        play(session, ACTIONS[:1])
        settle(session)
        before = held(tiny_world)
        for _ in range(50):
            session.restore(session.snapshot())
        assert held(tiny_world)[1] == before[1]
        assert tiny_world._cache.used == before[0] - 1  # the history is gone


PLAY_ON = """
import json, math, sys
from dsa_runtime import load_world
from dsa_runtime.recording import digest

package, actions = sys.argv[1] or None, json.loads(sys.argv[2])
with load_world(package, threads=1) as world, world.session(5) as session:
    digests = [digest(session.restore(sys.stdin.buffer.read()))]
    for action in actions:
        tick = session.step(action, math.inf)
        digests += [digest(tick.pixels), tick.steps, tick.threshold]
print(json.dumps(digests))
"""


def play_on_elsewhere(package: str, taken: bytes, actions: list[int]) -> list[Any]:
    """What a new process draws after it has restored `taken`."""
    command = [sys.executable, "-c", PLAY_ON, package, json.dumps(actions)]
    result = subprocess.run(command, input=taken, capture_output=True, timeout=600)
    assert result.returncode == 0, result.stderr.decode()
    digests: list[Any] = json.loads(result.stdout)
    return digests


def play_on_here(session: Session, taken: bytes, actions: list[int]) -> list[Any]:
    digests: list[Any] = [_digest(session.restore(taken))]
    for action in actions:
        tick = session.step(action, math.inf)
        digests += [_digest(tick.pixels), tick.steps, tick.threshold]
    return digests


def _digest(pixels: np.ndarray) -> str:
    return hashlib.blake2b(pixels.tobytes(), digest_size=16).hexdigest()


class TestAnotherProcess:
    @pytest.mark.parametrize("controller", [Controller(), FEEDBACK, Controller(policy="paper")], ids=lambda c: c.policy)
    def test_it_draws_the_same_frames(self, tiny_world: World, tiny_package: Path, controller: Controller) -> None:
        with tiny_world.session(7, controller=controller) as session:
            play(session, ACTIONS[:7])
            taken = session.snapshot()
            assert play_on_elsewhere(str(tiny_package), taken, ACTIONS) == play_on_here(session, taken, ACTIONS)

    def test_of_the_bundled_world(self) -> None:
        with load_world(threads=1) as world, world.session(11, controller=FEEDBACK) as session:
            play(session, ACTIONS[:7])
            taken, actions = session.snapshot(), [*ACTIONS, *ACTIONS][:20]
            assert play_on_elsewhere("", taken, actions) == play_on_here(session, taken, actions)

    @pytest.mark.slow
    def test_of_the_bundled_world_for_a_thousand_ticks(self) -> None:
        rng = np.random.default_rng()
        at, actions = int(rng.integers(200)), [int(action) for action in rng.integers(6, size=1000)]
        with load_world(threads=1) as world, world.session(11, controller=FEEDBACK) as session:
            play(session, actions[:at])
            taken = session.snapshot()
            here = play_on_here(session, taken, actions)
        assert play_on_elsewhere("", taken, actions) == here, (at, actions)


class TestARestoreThatFails:
    """It leaves the session as it was."""

    @pytest.fixture
    def playing(self, tiny_world: World, expected: list[np.ndarray]) -> Iterator[Session]:
        with tiny_world.session(7, history=8, record=True) as session:
            play(session, ACTIONS[:5])
            settle(session)
            before, recording = held(tiny_world), session.recording
            yield session
            assert (session.tick, session.seed, session.controller) == (5, 7, Controller())
            assert held(tiny_world) == before
            np.testing.assert_array_equal(play(session, ACTIONS[5:6]), expected[5:6])
            np.testing.assert_array_equal(session.rewind(3), expected[2])
            np.testing.assert_array_equal(play(session, ACTIONS[3:]), expected[3:])
            assert session.recording is recording is not None
            assert verify_replay(tiny_world, recording) == len(ACTIONS)

    @pytest.fixture
    def other(self, tiny_world: World) -> bytes:
        with tiny_world.session(0, controller=FEEDBACK) as other:
            play(other, [3, 3])
            return other.snapshot()

    @pytest.mark.parametrize("junk", [b"", b"junk", None, "text"])
    def test_bytes_that_are_no_snapshot(self, playing: Session, junk: Any) -> None:
        with pytest.raises(SnapshotError):
            playing.restore(junk)

    def test_a_damaged_one(self, playing: Session, other: bytes) -> None:
        with pytest.raises(SnapshotError, match="damaged"):
            playing.restore(other[:-40] + bytes(40))

    def test_one_of_another_world(self, playing: Session, sink_world: World) -> None:
        with sink_world.session(0) as other, pytest.raises(SnapshotError, match="another build"):
            playing.restore(other.snapshot())

    def test_one_whose_controller_does_not_suit_the_world(self, playing: Session, other: bytes) -> None:
        """Nobody can take such a snapshot, but somebody can make one."""
        found = snapshot.decode(playing.spec, other)
        unsuited = dataclasses.replace(found, controller=Controller(target_steps=9.0))
        with pytest.raises(SnapshotError, match="target_steps"):
            playing.restore(snapshot.encode(playing.spec, unsuited))

    def test_the_decoder_fails(self, playing: Session, other: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any) -> None:
            raise EngineError("decode: made to fail")

        with monkeypatch.context() as patch:
            patch_stage(patch, "decode", fail)
            with pytest.raises(EngineError, match="made to fail"):
                playing.restore(other)

    @pytest.mark.parametrize("method", ["reserve", "allocate", "write"])
    def test_there_is_no_memory(
        self, playing: Session, other: bytes, monkeypatch: pytest.MonkeyPatch, method: str
    ) -> None:
        def fail(*_: Any) -> None:
            raise MemoryError

        with monkeypatch.context() as patch:
            patch.setattr(playing._runtime.cache, method, fail)
            with pytest.raises(MemoryError):
                playing.restore(other)


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


class TestAFrameWhoseCommitHasFailed:
    """It is committed by whatever comes next, or forgotten if the session goes elsewhere."""

    @pytest.fixture
    def failed(self, session: Session, monkeypatch: pytest.MonkeyPatch) -> Session:
        def fail(*_: Any) -> None:
            raise EngineError("commit: made to fail")

        play(session, ACTIONS[:5])
        settle(session)
        with monkeypatch.context() as patch:
            patch_stage(patch, "commit", fail)
            play(session, ACTIONS[5:6])
            session._worker.drain()
        assert session._uncommitted
        return session

    def test_then_a_snapshot(self, failed: Session, expected: list[np.ndarray]) -> None:
        failed.restore(failed.snapshot())
        np.testing.assert_array_equal(play(failed, ACTIONS[6:]), expected[6:])

    def test_then_a_fork(self, failed: Session, expected: list[np.ndarray]) -> None:
        with failed.fork()[0] as branch:
            np.testing.assert_array_equal(play(branch, ACTIONS[6:]), expected[6:])
        np.testing.assert_array_equal(play(failed, ACTIONS[6:]), expected[6:])

    @pytest.mark.parametrize("ticks", [0, 1, 4])
    def test_then_a_rewind(self, failed: Session, expected: list[np.ndarray], ticks: int) -> None:
        np.testing.assert_array_equal(failed.rewind(ticks), expected[5 - ticks])
        np.testing.assert_array_equal(play(failed, ACTIONS[6 - ticks :]), expected[6 - ticks :])

    def test_then_a_reset(self, failed: Session, expected: list[np.ndarray]) -> None:
        failed.reset(7)
        np.testing.assert_array_equal(play(failed), expected)

    def test_then_a_restore(self, tiny_world: World, failed: Session, expected: list[np.ndarray]) -> None:
        with tiny_world.session(7) as other:
            play(other, ACTIONS[:3])
            failed.restore(other.snapshot())
        np.testing.assert_array_equal(play(failed, ACTIONS[3:]), expected[3:])


class TestRecording:
    @pytest.fixture
    def recorded(self, tiny_world: World) -> Iterator[Session]:
        with tiny_world.session(7, record=True, history=8, controller=FEEDBACK) as session:
            yield session

    def check(self, world: World, session: Session, actions: list[int], tmp_path: Path) -> Recording:
        recording = session.recording
        assert recording is not None
        assert [decision.action for decision in recording.decisions] == actions
        assert (recording.seed, recording.first_tick) == (session.seed, session.tick - len(actions))
        assert verify_replay(world, recording) == len(actions)
        recording.save(tmp_path / "recording.json")
        assert verify_replay(world, Recording.load(tmp_path / "recording.json")) == len(actions)
        return recording

    def test_a_rewind_shortens_it(self, tiny_world: World, recorded: Session, tmp_path: Path) -> None:
        play(recorded)
        recorded.rewind(5)
        self.check(tiny_world, recorded, ACTIONS[:-5], tmp_path)
        play(recorded, [3, 3])
        self.check(tiny_world, recorded, [*ACTIONS[:-5], 3, 3], tmp_path)
        recorded.rewind(0)
        self.check(tiny_world, recorded, [*ACTIONS[:-5], 3, 3], tmp_path)

    def test_a_reset_starts_a_new_one(self, tiny_world: World, recorded: Session, tmp_path: Path) -> None:
        play(recorded)
        before = recorded.recording
        recorded.reset(2)
        play(recorded, [1, 2])
        after = self.check(tiny_world, recorded, [1, 2], tmp_path)
        assert after.snapshot is None
        assert before is not None and len(before.decisions) == len(ACTIONS)

    def test_a_restore_starts_a_new_one(self, tiny_world: World, recorded: Session, tmp_path: Path) -> None:
        play(recorded)
        taken = recorded.snapshot()
        recorded.restore(taken)
        self.check(tiny_world, recorded, [], tmp_path)
        play(recorded, ACTIONS[::-1])
        recording = self.check(tiny_world, recorded, ACTIONS[::-1], tmp_path)
        assert (recording.snapshot, recording.first_tick) == (taken, len(ACTIONS))
        recorded.rewind(8)
        self.check(tiny_world, recorded, ACTIONS[::-1][:-8], tmp_path)

    def test_a_fork_copies_it(self, tiny_world: World, recorded: Session, tmp_path: Path) -> None:
        play(recorded, ACTIONS[:4])
        one, two = recorded.fork(2)
        play(one, [3, 3])
        play(two, [2])
        play(recorded, [0])
        recorded.rewind(2)
        self.check(tiny_world, one, [*ACTIONS[:4], 3, 3], tmp_path)
        self.check(tiny_world, two, [*ACTIONS[:4], 2], tmp_path)
        self.check(tiny_world, recorded, ACTIONS[:3], tmp_path)
        one.rewind(2)
        self.check(tiny_world, one, ACTIONS[:4], tmp_path)
        one.close()
        two.close()

    def test_a_fork_of_a_restored_one(self, tiny_world: World, recorded: Session, tmp_path: Path) -> None:
        play(recorded, ACTIONS[:4])
        recorded.restore(recorded.snapshot())
        play(recorded, [1])
        with recorded.fork()[0] as branch:
            play(branch, [2])
            self.check(tiny_world, branch, [1, 2], tmp_path)

    def test_without_one_there_is_none(self, session: Session) -> None:
        play(session, [0])
        session.restore(session.snapshot())
        with session.fork()[0] as branch:
            assert branch.recording is None
        session.reset(0)
        assert session.recording is None
