"""The Python client where messages get lost."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsa_runtime import CancelledError, Connection, ServerError, ServerGoneError, World, connect
from dsa_runtime.serving.channel import Channel
from dsa_runtime.serving.link import LAP_MS
from dsa_runtime.serving.wire import Message, pack, unpack
from tests.play import ACTIONS, play
from tests.serving.held import Held
from tests.serving.lives import Lives
from tests.serving.relay import Relay
from tests.serving.slow_wire import slow_wire
from tests.serving.waiting import until
from tests.stages import WAIT_S, Gate


class TestLosses:
    """What gets lost on the way is asked again and has happened once."""

    @pytest.mark.parametrize("way", ["requests", "replies"])
    @pytest.mark.parametrize("kind", ["open", "step", "snapshot", "rewind", "fork", "close"])
    def test_a_message_that_is_lost(self, relay: Relay, expected: list[np.ndarray], way: str, kind: str) -> None:
        lost = []
        answer = {"open": "opened", "step": "frame", "rewind": "picture", "fork": "forked", "close": "closed"}

        def passes(message: Message) -> bool:
            wanted = kind if way == "requests" else answer.get(kind, kind)
            if message.type != wanted or lost:
                return True
            lost.append(message)
            return False

        setattr(relay, way, passes)
        with connect(relay.address) as connection, connection.session(7, history=8) as session:
            frames = play(session, ACTIONS[:6])
            taken = session.snapshot()
            session.rewind(2)
            session.restore(taken)
            (branch,) = session.fork()
            np.testing.assert_array_equal(frames + play(session, ACTIONS[6:]), expected)
            np.testing.assert_array_equal(frames + play(branch, ACTIONS[6:]), expected)
            branch.close()
            stats = connection.stats()
            assert (stats["opened"], stats["ticks"]) == (2, 2 * len(ACTIONS) - 6)
        assert len(lost) == 1

    def test_every_third_message_is_lost(self, relay: Relay, expected: list[np.ndarray]) -> None:
        with connect(relay.address) as connection, connection.session(7) as session:
            count = 0

            def passes(message: Message) -> bool:
                nonlocal count
                count += message.type not in ("ping", "pong")
                return bool(count % 3)

            relay.requests = relay.replies = passes
            frames = play(session, ACTIONS[:6])
            relay.requests = relay.replies = lambda message: True
            np.testing.assert_array_equal(frames + play(session, ACTIONS[6:]), expected)
            assert connection.stats()["ticks"] == len(ACTIONS)

    def test_a_message_that_crosses_slowly(self, tiny_world: World, tmp_path: Path) -> None:
        """For longer than a frozen server would be waited for; but it is one that talks."""
        with (
            Lives(tiny_world, tmp_path, bind="tcp://127.0.0.1:*") as lives,
            slow_wire(lives.server.address) as wire,
            connect(wire.address, timeout_ms=2500, frames="part") as connection,
            connection.session(7, lease_ms=60_000) as session,
            ThreadPoolExecutor(1) as pool,
        ):
            taken = session.snapshot()
            wire.bytes_per_s = len(taken) / 1.0
            try:
                assert pool.submit(session.snapshot).result(WAIT_S) == taken
            finally:
                wire.bytes_per_s = math.inf

    def test_a_cancel_whose_reply_is_lost_stops_one_step(self, relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
        answered = threading.Semaphore(0)
        with (
            connect(relay.address) as connection,
            connection.session(7) as session,
            ThreadPoolExecutor(2) as pool,
            ExitStack() as stack,
        ):
            connection.session().close()  # the world's batcher has warmed up now
            held = Held(monkeypatch)
            stack.callback(held.let_go)

            def passes(message: Message) -> bool:
                if message.type != "cancelled":
                    return True
                answered.release()
                return lost.is_set()

            lost = threading.Event()
            relay.replies = passes
            step = pool.submit(session.step, 1, math.inf)
            held.wait()
            cancel = pool.submit(session.cancel)
            with pytest.raises(CancelledError):
                step.result(WAIT_S)
            assert answered.acquire(timeout=WAIT_S)
            step = pool.submit(session.step, 2, math.inf)
            until(lambda: session._berth.stepping is not None, "it does not begin")
            while answered.acquire(blocking=False):
                pass  # those that were asked before it began
            lost.set()
            assert answered.acquire(timeout=WAIT_S)
            held.let_go()
            assert step.result(WAIT_S).tick == 0
            cancel.result(WAIT_S)

    def test_a_step_that_takes_longer_than_a_silence_may_is_waited_for(
        self, tiny_world: World, tmp_path: Path, expected: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with (
            Lives(tiny_world, tmp_path) as lives,
            connect(lives.server.address, timeout_ms=2 * LAP_MS) as connection,
            connection.session(7) as session,
            monkeypatch.context() as patch,
        ):
            gate = Gate(patch, "denoise")
            threading.Timer(5 * LAP_MS / 1000, gate.open.set).start()
            np.testing.assert_array_equal(play(session), expected)

    @pytest.mark.parametrize("recover", [False, True])
    def test_a_cut_that_lasts(self, relay: Relay, expected: list[np.ndarray], recover: bool) -> None:
        with (
            connect(relay.address, timeout_ms=600) as connection,
            connection.session(7, lease_ms=60_000, recover=recover) as session,
        ):
            frames = play(session, ACTIONS[:4])
            relay.replies = lambda message: False
            with pytest.raises(ServerGoneError, match="no answer"):
                session.step(3, math.inf)  # which the server carries out
            assert session.tick == 4
            relay.replies = lambda message: True
            if recover:
                np.testing.assert_array_equal(frames + play(session, ACTIONS[4:]), expected)
                until(lambda: connection.stats()["sessions"] == 1, "the one before was left behind")
            else:
                for _ in range(2):
                    with pytest.raises(ServerGoneError, match="no answer"):
                        session.step(3, math.inf)
        with connect(relay.address) as connection:
            until(lambda: connection.stats()["sessions"] == 0, "a session was left behind")

    @pytest.mark.parametrize("recover", [False, True])
    def test_a_reply_that_makes_no_sense(self, relay: Relay, expected: list[np.ndarray], recover: bool) -> None:
        with connect(relay.address) as connection, connection.session(7, frames="part", recover=recover) as session:
            frames = play(session, ACTIONS[:4])

            def garble(parts: list[bytes]) -> list[bytes]:
                reply = unpack(parts)
                fields = {**reply.fields, "status": "splendid"} if reply.type == "frame" else reply.fields
                return [bytes(part) for part in pack(Message(reply.type, reply.id, fields, reply.buffers))]

            relay.change = garble
            with pytest.raises(ServerError, match="makes no sense: status"):
                session.step(3, math.inf)
            relay.change = lambda parts: parts
            if recover:
                np.testing.assert_array_equal(frames + play(session, ACTIONS[4:]), expected)
            else:
                with pytest.raises(ServerGoneError, match="makes no sense"):
                    session.step(3, math.inf)

    @pytest.mark.parametrize("recover", [False, True])
    def test_a_call_that_is_interrupted(
        self, connection: Connection, expected: list[np.ndarray], monkeypatch: pytest.MonkeyPatch, recover: bool
    ) -> None:
        with connection.session(7, recover=recover) as session:
            frames = play(session, ACTIONS[:4])
            real = Channel.ask

            def interrupted(channel: Channel, message: Message, **options: Any) -> Message:
                real(channel, message, **options)
                raise KeyboardInterrupt

            with monkeypatch.context() as patch:
                patch.setattr(Channel, "ask", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    session.step(3, math.inf)
            if recover:
                np.testing.assert_array_equal(frames + play(session, ACTIONS[4:]), expected)
            else:
                with pytest.raises(ServerGoneError, match="interrupted"):
                    session.step(3, math.inf)
