"""What a draining server hands back, at the Python client."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dsa_runtime import BusyError, Connection, ServerGoneError, World, connect
from dsa_runtime.serving.observer import Observer
from dsa_runtime.serving.server import Server
from dsa_runtime.serving.wire import Message
from tests.play import ACTIONS, play
from tests.serving.lives import Lives
from tests.serving.relay import relayed
from tests.serving.waiting import until
from tests.stages import WAIT_S


class connected_once:
    """A server that a test tells to end, and a connection to it."""

    def __init__(self, world: World, folder: Path, drain_s: float = 5.0) -> None:
        self._lives = Lives(world, folder, expect_end=True, drain_s=drain_s)

    def __enter__(self) -> tuple[Lives, Connection]:
        self._lives.begin()
        self._connection = connect(self._lives.server.address, timeout_ms=700)
        return self._lives, self._connection

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._lives.end()


class TestDrain:
    def test_the_session_comes_back_as_a_snapshot(
        self, tiny_world: World, tmp_path: Path, expected: list[np.ndarray]
    ) -> None:
        with connected_once(tiny_world, tmp_path, drain_s=60.0) as (lives, connection):
            with connection.session(7, lease_ms=60_000) as session:
                frames = play(session, ACTIONS[:5])
                lives.server.drain()
                with pytest.raises(ServerGoneError) as gone:
                    session.step(0)
                assert gone.value.code == "draining" and gone.value.snapshot is not None
                assert lives.server.wait(WAIT_S / 2)  # it knows that it has arrived
                with pytest.raises(ServerGoneError) as again:
                    session.snapshot()
                assert again.value.snapshot == gone.value.snapshot
            with tiny_world.session(0) as elsewhere:
                elsewhere.restore(gone.value.snapshot)
                np.testing.assert_array_equal(frames + play(elsewhere, ACTIONS[5:]), expected)

    def test_one_that_is_not_stepped_meanwhile_comes_back_too(
        self, tiny_world: World, tmp_path: Path, expected: list[np.ndarray]
    ) -> None:
        with connected_once(tiny_world, tmp_path) as (lives, connection):
            with connection.session(7, lease_ms=400) as session:
                frames = play(session, ACTIONS[:5])
                lives.server.drain()
                assert lives.server.wait(WAIT_S)  # by the heartbeat, the session was fetched
                until(lambda: session._berth._handed is not None, "nothing was handed over")
                with pytest.raises(ServerGoneError) as gone:
                    session.step(0)
            assert gone.value.snapshot is not None
            with tiny_world.session(0) as elsewhere:
                elsewhere.restore(gone.value.snapshot)
                np.testing.assert_array_equal(frames + play(elsewhere, ACTIONS[5:]), expected)

    def test_what_came_unasked_is_found_after_the_server_has_gone(
        self, tiny_world: World, tmp_path: Path, expected: list[np.ndarray]
    ) -> None:
        with (
            connected_once(tiny_world, tmp_path, drain_s=0.1) as (lives, connection),
            connection.session(7, lease_ms=60_000) as session,  # so that its heartbeat does not ask
        ):
            frames = play(session, ACTIONS[:5])
            lives.server.drain()
            assert lives.server.wait(WAIT_S)
            with pytest.raises(ServerGoneError) as gone:
                session.step(0)
            assert gone.value.snapshot is not None
            with tiny_world.session(0) as elsewhere:
                elsewhere.restore(gone.value.snapshot)
                np.testing.assert_array_equal(frames + play(elsewhere, ACTIONS[5:]), expected)

    def test_no_session_is_opened_any_more(self, tiny_world: World, tmp_path: Path) -> None:
        with connected_once(tiny_world, tmp_path) as (lives, connection), connection.session(lease_ms=60_000):
            lives.server.drain()
            until(lambda: bool(connection.stats()["draining"]), "it does not drain")
            with pytest.raises(BusyError) as refused:
                connection.session()
            assert (refused.value.code, refused.value.retry) == ("draining", True)


class TestDrained:
    @pytest.mark.parametrize("history", [0, 3])
    def test_a_session_moves_on_to_the_next_server(
        self, tiny_world: World, tmp_path: Path, expected: list[np.ndarray], history: int
    ) -> None:
        lives = Lives(tiny_world, tmp_path)
        lives.begin(expect_end=True)
        with (
            connect(lives.server.address, timeout_ms=WAIT_S * 1000) as connection,
            ThreadPoolExecutor(1) as pool,
            connection.session(7, recover=True, history=history) as session,
        ):
            frames = play(session, ACTIONS[:6])
            lives.server.drain()
            while not connection.stats()["draining"]:
                pass
            rest = pool.submit(play, session, ACTIONS[6:])
            lives.end()
            lives.begin()
            np.testing.assert_array_equal(frames + rest.result(WAIT_S), expected)
            if history:
                np.testing.assert_array_equal(session.rewind(history), expected[-1 - history])
            else:  # nothing was made again: it went on from the snapshot that it was handed
                assert connection.stats()["ticks"] == len(ACTIONS) - 6
        lives.end()

    def test_one_that_was_half_made_again_is_not_taken_for_it(self, tiny_world: World, tmp_path: Path) -> None:
        """The next server drains while the session is being made again, and hands back what is not the session yet."""
        with tiny_world.session(5) as other:
            snapshot, expected = other.snapshot(), play(other, ACTIONS[:3])
        server: Server

        class Drains(Observer):
            def opened(self, sid: int, world: str) -> None:
                server.drain()

        with (
            Lives(tiny_world, tmp_path) as lives,
            connect(lives.server.address, timeout_ms=700) as connection,
            connection.session(7, recover=True, lease_ms=60_000) as session,
        ):
            session.restore(snapshot)
            lives.end()
            lives.begin(expect_end=True, drain_s=0.5, observer=Drains())
            server = lives.server
            with pytest.raises(ServerGoneError):
                session.step(ACTIONS[0], math.inf)
            lives.end()
            lives.begin()
            np.testing.assert_array_equal(play(session, ACTIONS[:3]), expected)

    @pytest.mark.parametrize("call", ["step", "reset"])
    def test_what_it_was_handed_is_not_trusted_after_a_call_whose_reply_was_lost(
        self, tiny_world: World, tmp_path: Path, expected: list[np.ndarray], call: str
    ) -> None:
        """It may show the world after that call, which has failed for its caller."""
        folder, lives = tmp_path / "relay", Lives(tiny_world, tmp_path)
        folder.mkdir()
        lives.begin(expect_end=True, drain_s=0.1)
        with (
            relayed(lives.server.address, folder) as relay,
            connect(relay.address, timeout_ms=600) as connection,
            connection.session(7, recover=True, lease_ms=60_000) as session,
        ):
            frames = play(session, [] if call == "reset" else ACTIONS[:4])
            tick = session.tick
            handed = threading.Event()

            def passes(message: Message) -> bool:
                if message.type in ("frame", "picture"):
                    lives.server.drain()
                if message.type == "handover":
                    handed.set()
                return message.type == "handover"

            relay.replies = passes
            with pytest.raises(ServerGoneError):
                session.step(3) if call == "step" else session.reset(9)
            assert handed.is_set()
            lives.end()
            lives.begin()
            relay.replies = lambda message: True
            assert (session.tick, session.seed) == (tick, 7)
            np.testing.assert_array_equal(frames + play(session, ACTIONS[len(frames) :]), expected)
        lives.end()
