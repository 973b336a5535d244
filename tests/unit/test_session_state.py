"""Snapshot, restore and recording: wherever a session goes on from, it draws the frames it would have drawn."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsa_runtime import Controller, EngineError, Session, SnapshotError, World, load_world, snapshot
from dsa_runtime.recording import Recording
from dsa_runtime.replay import verify_replay
from tests.play import ACTIONS, FEEDBACK, held, play
from tests.stages import Gate, patch_stage, settle
from tests.tiny_world import write_tiny_world


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
