"""Sessions that outlive their server: the same frames, bit for bit, nothing lost and nothing twice."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsa_runtime import (
    Connection,
    Controller,
    RemoteSession,
    ServerGoneError,
    Session,
    SessionError,
    World,
    connect,
    load_world,
)
from dsa_runtime.serving.wire import Message
from tests.play import ACTIONS, play
from tests.serving.lives import Lives
from tests.serving.relay import relayed
from tests.stages import WAIT_S
from tests.tiny_world import write_tiny_world

CONTROLLERS = [
    Controller(threshold=0.5),
    Controller(threshold=0.62, min_steps=2),
    Controller(policy="fixed", max_steps=3),
    Controller(policy="paper"),
]


@pytest.fixture
def connection(lives: Lives) -> Iterator[Connection]:
    with connect(lives.server.address, timeout_ms=WAIT_S * 1000) as connected:
        yield connected


class TestRestart:
    @pytest.mark.parametrize("checkpoint_ticks", [1, 3, None])
    def test_a_session_goes_on_where_it_was(
        self, lives: Lives, connection: Connection, expected: list[np.ndarray], checkpoint_ticks: int | None
    ) -> None:
        frames = []
        with connection.session(7, recover=True, checkpoint_ticks=checkpoint_ticks) as session:
            for number, action in enumerate(ACTIONS):
                if number in (0, 4, 5, 11):
                    lives.restart()
                tick = session.step(action, math.inf)
                assert (tick.tick, session.tick) == (number, number + 1)
                frames.append(tick.pixels)
        np.testing.assert_array_equal(frames, expected)

    def test_what_is_repeated_is_what_came_after_the_newest_checkpoint(
        self, lives: Lives, connection: Connection
    ) -> None:
        with connection.session(7, recover=True, checkpoint_ticks=5) as session:
            play(session, ACTIONS[:8])
            lives.restart()
            session.step(0)
            assert connection.stats()["ticks"] == 3 + 1
            play(session, ACTIONS[:5])
            session.snapshot()  # is as good as a checkpoint
            lives.restart()
            session.step(0)
            assert connection.stats()["ticks"] == 1

    @pytest.mark.parametrize("seed", range(3))
    def test_a_walk_through_everything(
        self, tiny_world: World, lives: Lives, connection: Connection, seed: int
    ) -> None:
        """The same calls on a session in this process, and on one whose server restarts every now and then."""
        rng = random.Random(seed)
        local: Session = tiny_world.session(7, history=6)
        remote: RemoteSession = connection.session(7, history=6, recover=True, checkpoint_ticks=4)
        taken, undoable = [local.snapshot()], 0
        for _ in range(60):
            act = rng.choice(["step"] * 8 + ["restart", "reset", "snapshot", "restore", "rewind", "fork", "controller"])
            one: Any = None
            if act == "step":
                action, steps = rng.randrange(4), rng.choice([None, None, 1, 2, 3, 4])
                one, two = (session.step(action, math.inf, steps=steps) for session in (local, remote))
                assert (one.tick, one.steps, one.threshold) == (two.tick, two.steps, two.threshold)
                one, two, undoable = one.pixels, two.pixels, min(undoable + 1, 6)
            elif act == "restart":
                lives.restart()
            elif act == "reset":
                number = rng.randrange(9)
                one, two, undoable = local.reset(number), remote.reset(number), 0
            elif act == "snapshot":
                taken.append(local.snapshot())
                assert remote.snapshot() == taken[-1]
            elif act == "restore":
                snapshot = rng.choice(taken)
                one, two, undoable = local.restore(snapshot), remote.restore(snapshot), 0
            elif act == "rewind":
                ticks = rng.randint(0, undoable)
                one, two, undoable = local.rewind(ticks), remote.rewind(ticks), undoable - ticks
            elif act == "fork":
                (branch,), (far,) = local.fork(), remote.fork()
                local.close()
                remote.close()
                local, remote, undoable = branch, far, 0
            else:
                local.controller = remote.controller = rng.choice(CONTROLLERS)
            if one is not None:
                np.testing.assert_array_equal(one, two)
            assert (local.tick, local.seed, local.controller) == (remote.tick, remote.seed, remote.controller)
        local.close()
        remote.close()
        assert connection.stats()["sessions"] == 0

    def test_a_reply_that_was_lost_with_the_server_is_made_again(
        self, lives: Lives, expected: list[np.ndarray], tmp_path: Path
    ) -> None:
        """The server has made the tick, and dies before its client knows."""
        made, lost = threading.Event(), threading.Event()

        def passes(message: Message) -> bool:
            if message.type == "frame" and message.fields["tick"] == 4 and not lost.is_set():
                made.set()
                return False
            return True

        folder = tmp_path / "relay"
        folder.mkdir()
        with (
            relayed(lives.server.address, folder) as relay,
            connect(relay.address, timeout_ms=WAIT_S * 1000) as connection,
            ThreadPoolExecutor(1) as pool,
            connection.session(7, recover=True) as session,
        ):
            relay.replies = passes
            frames = pool.submit(play, session)
            assert made.wait(WAIT_S)
            lives.restart()
            lost.set()
            np.testing.assert_array_equal(frames.result(WAIT_S), expected)
            assert connection.stats()["ticks"] == len(ACTIONS)

    def test_the_controller_in_force_stays_so(self, lives: Lives, connection: Connection, tiny_world: World) -> None:
        """Wherever it came from: opened with, set, or restored with a snapshot."""
        with tiny_world.session(1, controller=Controller(policy="fixed", max_steps=2)) as other:
            snapshot = other.snapshot()
        with connection.session(7, controller=Controller(policy="fixed", max_steps=3), recover=True) as session:
            lives.restart()
            assert session.step(0, math.inf).steps == 3
            session.restore(snapshot)
            session.reset(5)
            lives.restart()
            assert session.step(0, math.inf).steps == 2
            session.controller = Controller(policy="fixed", max_steps=1)
            lives.restart()
            assert session.step(0, math.inf).steps == 1
            (branch,) = session.fork()
            lives.restart()
            assert branch.step(0, math.inf).steps == 1
            branch.close()

    def test_several_sessions_at_once(
        self, lives: Lives, connection: Connection, tiny_world: World, expected: list[np.ndarray]
    ) -> None:
        barrier = threading.Barrier(4)

        def walk(session: RemoteSession) -> list[np.ndarray]:
            frames = play(session, ACTIONS[:5])
            barrier.wait(WAIT_S)
            barrier.wait(WAIT_S)
            return frames + play(session, ACTIONS[5:])

        with ThreadPoolExecutor(3) as pool:
            sessions = [connection.session(7, recover=True, checkpoint_ticks=2 + number) for number in range(3)]
            walks = [pool.submit(walk, session) for session in sessions]
            barrier.wait(WAIT_S)
            lives.restart()
            barrier.wait(WAIT_S)
            for walked in walks:
                np.testing.assert_array_equal(walked.result(WAIT_S), expected)
            assert connection.stats()["sessions"] == 3
            for session in sessions:
                session.close()

    def test_a_server_that_comes_back_late_is_waited_for(
        self, lives: Lives, connection: Connection, expected: list[np.ndarray]
    ) -> None:
        with connection.session(7, recover=True) as session:
            frames = play(session, ACTIONS[:4])
            lives.end()
            timer = threading.Timer(0.6, lives.begin)
            timer.start()
            np.testing.assert_array_equal(frames + play(session, ACTIONS[4:]), expected)
            timer.join()

    def test_a_session_is_opened_at_a_server_that_has_just_come_back(
        self, lives: Lives, connection: Connection
    ) -> None:
        """Which answers, late, all that was asked while it was away."""
        assert connection.spec  # is known already
        lives.end()
        timer = threading.Timer(0.8, lives.begin)
        timer.start()
        with connection.session(7) as session:
            timer.join()
            assert session.step(0).tick == 0

    def test_one_that_comes_back_too_late_is_found_by_the_next_call(
        self, lives: Lives, expected: list[np.ndarray]
    ) -> None:
        with (
            connect(lives.server.address, timeout_ms=800) as connection,
            connection.session(7, recover=True) as session,
        ):
            frames = play(session, ACTIONS[:4])
            lives.end()
            for _ in range(2):
                with pytest.raises(ServerGoneError, match="no answer"):
                    session.step(3)
                assert session.tick == 4
            lives.begin()
            np.testing.assert_array_equal(frames + play(session, ACTIONS[4:]), expected)

    def test_without_its_connection_it_cannot_be_made_again(self, lives: Lives, connection: Connection) -> None:
        with connection.session(7, recover=True) as session:
            connection.close()
            session.step(0)
            lives.restart()
            for call in (lambda: session.step(0), connection.stats, connection.ping, connection.session):
                with pytest.raises(SessionError, match="connection is closed"):
                    call()

    def test_without_recovery_the_session_is_lost_and_the_connection_is_not(
        self, lives: Lives, connection: Connection, expected: list[np.ndarray]
    ) -> None:
        with connection.session(7) as session:
            play(session, ACTIONS[:4])
            lives.restart()
            for call in (lambda: session.step(0), session.snapshot, lambda: session.reset(0)):
                with pytest.raises(ServerGoneError, match="restarted") as gone:
                    call()
                assert gone.value.code == "epoch"
            assert not session.cancel()
            with connection.session(7) as another:
                np.testing.assert_array_equal(play(another), expected)
            assert connection.stats()["opened"] == 1

    def test_another_world_of_that_name_is_not_taken_for_it(
        self, lives: Lives, connection: Connection, tmp_path: Path
    ) -> None:
        folder = tmp_path / "other"
        with (
            load_world(write_tiny_world(folder, window=4), threads=1) as other,
            connection.session(7, recover=True) as session,
        ):
            session.step(0)
            lives.end()
            with Lives(other, tmp_path):
                with pytest.raises(ServerGoneError, match="another 'tiny'"):
                    session.step(0)
                assert connection.spec.cache.window == 4
            lives.begin()
            assert session.step(0).tick == 1
