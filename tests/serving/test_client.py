"""The Python client: what goes beyond a session in this process. What both have in common is in tests/behaviour."""

from __future__ import annotations

import gc
import math
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsa_runtime import (
    BusyError,
    CancelledError,
    Connection,
    ServerError,
    ServerGoneError,
    ServingError,
    SessionError,
    World,
    connect,
)
from dsa_runtime.serving import answers, keys
from dsa_runtime.serving.channel import Channel
from dsa_runtime.serving.heartbeat import Heartbeat
from dsa_runtime.serving.link import LAP_MS
from dsa_runtime.serving.observer import Observer
from dsa_runtime.serving.security import Access
from dsa_runtime.serving.server import Server
from dsa_runtime.serving.wire import Message, pack, unpack
from tests.play import ACTIONS, play
from tests.serving.held import Held
from tests.serving.lives import Lives
from tests.serving.relay import Relay, relayed
from tests.serving.serve import private
from tests.serving.slow_wire import slow_wire
from tests.stages import WAIT_S, Gate


@pytest.fixture(scope="module")
def expected(tiny_world: World) -> list[np.ndarray]:
    with tiny_world.session(7) as alone:
        return play(alone)


@pytest.fixture
def connection(served: Server) -> Iterator[Connection]:
    with connect(served.address) as connected:
        yield connected


@pytest.fixture
def relay(served: Server, tmp_path: Path) -> Iterator[Relay]:
    with relayed(served.address, tmp_path) as between:
        yield between


def until(condition: Callable[[], bool], what: str) -> None:
    give_up = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < give_up, what
        time.sleep(0.01)


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


class TestConnect:
    def test_it_says_what_the_server_has(self, connection: Connection, tiny_world: World) -> None:
        (world,) = connection.worlds
        assert (world.name, world.fingerprint) == ("tiny", tiny_world.spec.fingerprint)
        assert connection.spec == tiny_world.spec
        assert connection.spec_of("tiny") is connection.spec
        assert connection.ping() > 0
        with connection.session() as session:
            session.step(0)
            assert connection.stats()["sessions"] == 1
        assert connection.stats()["sessions"] == 0
        assert connection.publish_address is None
        with pytest.raises(SessionError, match="the server has tiny, got 'huge'"):
            connection.session(world="huge")

    def test_nobody_there(self, tmp_path: Path) -> None:
        with pytest.raises(ServerGoneError, match=r"no answer to 'hello' for 0\.3 s"):
            connect(f"ipc://{tmp_path}/nobody", timeout_ms=300)

    @pytest.mark.parametrize(
        ("options", "error", "match"),
        [
            ({"address": "localhost:5577"}, ServingError, "tcp://HOST:PORT"),
            ({"address": "tcp://localhost"}, ServingError, "tcp://HOST:PORT"),
            ({"address": "tcp://127.0.0.1:99999"}, ServingError, "address"),
            ({"timeout_ms": 0}, ServingError, "timeout_ms"),
            ({"timeout_ms": math.inf}, ServingError, "timeout_ms"),
            ({"frames": "gif"}, SessionError, "frames"),
            ({"key": "mine"}, ServingError, "server_key"),
            ({"server_key": "theirs"}, ServingError, "^key"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, options: dict[str, Any], error: type[Exception], match: str) -> None:
        with pytest.raises(error, match=match):
            connect(**{"address": "ipc:///nowhere", **options})

    def test_it_brings_no_engine_along(self) -> None:
        """A client is small: it starts fast, and needs no memory for what runs elsewhere."""
        code = "import sys, dsa_runtime; dsa_runtime.connect; dsa_runtime.RemoteSession; print(*sys.modules)"
        loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        assert "zmq" in loaded
        assert not {"onnxruntime", "dsa_runtime.engine", "dsa_runtime.session"} & set(loaded)

    def test_a_connection_that_is_dropped_leaves_no_thread(self, served: Server) -> None:
        dropped = connect(served.address)
        session = dropped.session()
        thread = dropped._heartbeat._thread
        gone = weakref.ref(dropped)
        session.close()
        del dropped, session
        gc.collect()
        assert gone() is None
        assert thread is not None and not thread.is_alive()


class TestKeys:
    """A server with CURVE answers those alone who know its key and are on its list."""

    @pytest.fixture
    def locked(self, tiny_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lives]:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        for name in ("server", "friend", "stranger"):
            keys.new_key(name)
        keys.allow("friend")
        access = Access.load("server", keys.default_allow_list())
        publish = f"ipc://{tmp_path}/frames"
        with Lives(tiny_world, tmp_path, bind="tcp://127.0.0.1:*", access=access, publish=publish) as lives:
            yield lives

    def test_who_is_on_the_list_plays_and_looks_on(self, locked: Lives, expected: list[np.ndarray]) -> None:
        with (
            connect(locked.server.address, key="friend", server_key=keys.public_key("server").decode()) as connection,
            connection.session(7, publish=True) as session,
        ):
            np.testing.assert_array_equal(play(session), expected)
            assert session.topic is not None
            with connection.spectator(session.topic) as spectator:
                while (seen := spectator.receive(20)) is None:
                    session.step(0)
                assert seen.pixels.shape == (8, 8, 3)

    def test_others_get_no_answer(self, locked: Lives) -> None:
        for options in ({}, {"key": "stranger", "server_key": "server"}, {"key": "friend", "server_key": "friend"}):
            with pytest.raises(ServerGoneError, match="no answer"):
                connect(locked.server.address, timeout_ms=400, **options)


class TestOptions:
    def test_no_room(self, tiny_world: World, tmp_path: Path) -> None:
        with Lives(tiny_world, tmp_path, max_sessions=1) as lives, connect(lives.server.address) as connection:
            with connection.session(), pytest.raises(BusyError) as refused:
                connection.session()
            assert (refused.value.code, refused.value.retry) == ("capacity", True)
            connection.session().close()

    @pytest.mark.parametrize(
        ("options", "error", "match"),
        [
            ({"frames": "gif"}, SessionError, "frames"),
            ({"quality": 100}, SessionError, "quality"),
            ({"lease_ms": 0}, SessionError, "lease_ms"),
            ({"recover": True, "checkpoint_ticks": 0}, SessionError, "checkpoint_ticks"),
            ({"checkpoint_ticks": 9}, SessionError, "recover=True"),
            ({"publish": True}, ServerError, "publish"),
            ({"lease_ms": 1 << 39}, ServerError, "lease_ms"),
        ],
    )
    def test_what_makes_no_sense_is_refused(
        self, connection: Connection, options: dict[str, Any], error: type[Exception], match: str
    ) -> None:
        with pytest.raises(error, match=match):
            connection.session(**options)
        until(lambda: connection.stats()["sessions"] == 0, "a session was left behind")

    def test_spectators_see_what_is_published(self, tiny_world: World, tmp_path: Path) -> None:
        publish = f"ipc://{tmp_path}/frames"
        with Lives(tiny_world, tmp_path, publish=publish) as lives, connect(lives.server.address) as connection:
            assert connection.publish_address == publish
            with connection.session(7, publish=True) as session, connection.session(7) as other:
                assert other.topic is None and session.topic is not None
                with connection.spectator(session.topic) as spectator:
                    while (seen := spectator.receive(20)) is None:
                        tick = session.step(0)
                    while seen.tick != tick.tick:  # the newest one is still on its way
                        newer = spectator.receive(int(WAIT_S * 1000))
                        assert newer is not None
                        seen = newer
                np.testing.assert_array_equal(seen.pixels, tick.pixels)

    def test_without_a_publisher_there_are_no_spectators(self, connection: Connection) -> None:
        with pytest.raises(SessionError, match="--publish"):
            connection.spectator(b"12345678")


class TestFrames:
    @pytest.mark.parametrize("frames", ["part", "shm", "png", "auto"])
    def test_every_way_brings_the_same_pixels(
        self, served: Server, connection: Connection, expected: list[np.ndarray], frames: Any
    ) -> None:
        assert served.config.ring_folder is not None
        with connection.session(7, frames=frames) as session:
            assert bool(list(served.config.ring_folder.glob("*.ring"))) == (frames in ("shm", "auto"))
            np.testing.assert_array_equal(play(session), expected)
            picture = session.rewind(0)
            np.testing.assert_array_equal(picture, expected[-1])
        until(lambda: not list(served.config.ring_folder.glob("*.ring")), "a ring was left behind")

    def test_jpeg_is_near_and_its_quality_counts(self, connection: Connection, expected: list[np.ndarray]) -> None:
        errors = []
        for quality in (10, 95):
            with connection.session(7, frames="jpeg", quality=quality) as session:
                errors.append(np.abs(np.array(play(session), int) - np.array(expected)).mean())
        assert 0 < errors[1] < errors[0]
        assert errors[1] < 8

    def test_a_fork_has_a_ring_of_its_own(
        self, served: Server, connection: Connection, expected: list[np.ndarray]
    ) -> None:
        assert served.config.ring_folder is not None
        with connection.session(7, frames="shm") as session:
            (branch,) = session.fork()
            assert len(list(served.config.ring_folder.glob("*.ring"))) == 2
            with branch:
                np.testing.assert_array_equal(play(branch), play(session))

    def test_a_ring_that_cannot_be_reached_is_done_without(
        self, served: Server, expected: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As from another container, or through a tunnel."""

        def unreachable(path: str, token: int) -> None:
            raise FileNotFoundError(path)

        monkeypatch.setattr(answers, "FrameReader", unreachable)
        with connect(served.address) as connection, connection.session(7, frames="shm", recover=True) as session:
            np.testing.assert_array_equal(play(session), expected)
            (branch,) = session.fork()
            np.testing.assert_array_equal(play(branch), play(session))
            branch.close()

    @pytest.mark.parametrize("recover", [False, True])
    def test_where_no_ring_can_be_made_auto_has_them_sent(
        self, tiny_world: World, tmp_path: Path, expected: list[np.ndarray], recover: bool
    ) -> None:
        rings = private(tmp_path / "rings")
        with Lives(tiny_world, tmp_path) as lives, connect(lives.server.address) as connection:
            parent = connection.session(7)
            rings.chmod(0o755)  # which is not private, and refused
            with connection.session(7, recover=recover) as session, parent:
                np.testing.assert_array_equal(play(session), expected)
                (branch,) = parent.fork()
                with branch:
                    np.testing.assert_array_equal(play(branch), expected)
            with pytest.raises(BusyError, match=r"frames: no shared memory \(.*mode 0700"):
                connection.session(frames="shm")
            assert connection.stats()["sessions"] == 0

    def test_large_frames_are_read_without_a_copy_and_are_the_callers_all_the_same(
        self, connection: Connection, expected: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dsa_runtime.serving.channel._COPY_BELOW", 1)
        with connection.session(7, frames="part") as session:
            frames = play(session)
            assert all(frame.flags.writeable and frame.flags.owndata for frame in frames)
            np.testing.assert_array_equal(frames, expected)


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
            until(lambda: session._seat.stepping is not None, "it does not begin")
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


class TestLeases:
    LEASE_MS = 400

    def test_a_session_that_is_not_stepped_lives_as_long_as_its_client(
        self, connection: Connection, expected: list[np.ndarray]
    ) -> None:
        with connection.session(7, lease_ms=self.LEASE_MS) as session:
            frames = play(session, ACTIONS[:4])
            (branch,) = session.fork()
            time.sleep(3 * self.LEASE_MS / 1000)
            for one in (session, branch):
                np.testing.assert_array_equal(frames + play(one, ACTIONS[4:]), expected)
            branch.close()

    def test_closing_while_a_lease_is_being_renewed(
        self, connection: Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        inside, go_on = threading.Event(), threading.Event()

        def beat(*_: object) -> None:
            inside.set()
            assert go_on.wait(WAIT_S)

        monkeypatch.setattr(Heartbeat, "_beat", beat)
        session = connection.session(7, lease_ms=self.LEASE_MS)
        assert inside.wait(WAIT_S)
        session.close()
        closing = threading.Thread(target=connection.close, daemon=True)
        closing.start()
        until(lambda: connection._heartbeat._ended, "it does not begin to close")
        go_on.set()
        closing.join(WAIT_S)
        assert not closing.is_alive()

    def test_a_session_that_is_dropped_is_given_up(self, connection: Connection) -> None:
        session = connection.session(7, lease_ms=self.LEASE_MS)
        session.step(0)
        del session
        gc.collect()
        until(lambda: connection.stats()["reaped"] == 1, "it still lives")

    def test_a_session_that_was_made_again_after_a_call_that_failed(self, tiny_world: World, tmp_path: Path) -> None:
        renewed = threading.Event()

        class Watch(Observer):
            def request(self, type: str, code: str, seconds: float) -> None:
                if type == "ping":
                    renewed.set()

        with (
            Lives(tiny_world, tmp_path, observer=Watch()) as lives,
            connect(lives.server.address, timeout_ms=500) as connection,
            connection.session(7, lease_ms=self.LEASE_MS, recover=True) as session,
        ):
            session.step(0)
            lives.end()
            with pytest.raises(ServerGoneError):
                session.step(1)
            lives.begin()
            session.step(1)
            renewed.clear()
            assert renewed.wait(WAIT_S)

    @pytest.mark.parametrize("recover", [False, True])
    def test_a_client_that_was_frozen(self, connection: Connection, expected: list[np.ndarray], recover: bool) -> None:
        with connection.session(7, lease_ms=self.LEASE_MS, recover=recover, frames="part") as session:
            frames = play(session, ACTIONS[:4])
            connection._heartbeat.close()  # as if
            until(lambda: connection.stats()["reaped"] == 1, "it still lives")
            if recover:
                np.testing.assert_array_equal(frames + play(session, ACTIONS[4:]), expected)
            else:
                with pytest.raises(ServerGoneError, match="lease") as gone:
                    session.step(3)
                assert gone.value.code == "session"


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
                until(lambda: session._seat._handed is not None, "nothing was handed over")
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
