"""The server as its peers see it."""

from __future__ import annotations

import select
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from dsa_runtime import Session, World, WorldSpec
from dsa_runtime.engine import Engine
from dsa_runtime.errors import ServingError
from dsa_runtime.serving.config import ServerConfig
from dsa_runtime.serving.observer import Observer, label
from dsa_runtime.serving.server import Server
from dsa_runtime.serving.wire import Message, pack, unpack
from dsa_runtime.tick import Tick
from tests.serving.drawn import ACTIONS, lone_frames
from tests.serving.held import Held
from tests.serving.peer import WAIT_MS, Peer, pixels, refusal
from tests.serving.serve import private, serve

WAIT_S = WAIT_MS / 1000


def test_the_greeting(peer: Peer, served: Server, tiny_world: World) -> None:
    reply = peer.ask("hello", min=0, max=9, features=["telepathy", "png", "shm"], client="test \n 1")
    assert reply.type == "welcome"
    assert reply.fields["version"] == 1 and reply.fields["epoch"] == served.epoch
    assert reply.fields["features"] == ["shm", "png"]
    assert reply.fields["worlds"] == [{"name": "tiny", "version": "0.0.1", "fingerprint": tiny_world.spec.fingerprint}]
    assert reply.fields["limits"]["sessions"] == served.config.max_sessions


@pytest.mark.parametrize(("low", "high"), [(2, 3), (0, 0)])
def test_no_common_version(peer: Peer, low: int, high: int) -> None:
    reply = peer.ask("hello", min=low, max=high)
    assert refusal(reply) == ("version", "no")
    assert (reply.fields["min"], reply.fields["max"]) == (1, 1)


def test_what_a_world_is(peer: Peer, tiny_world: World) -> None:
    reply = peer.ask("specs")
    data = reply.buffer("spec").data
    assert data is not None and WorldSpec.from_json(bytes(data)) == tiny_world.spec
    assert reply.fields["contexts"] == tiny_world.contexts
    assert reply.fields["spec"]["action_space"] == {
        "type": "Discrete",
        "n": 4,
        "names": ["noop", "left", "right", "fire"],
    }
    assert refusal(peer.ask("specs", world="mars")) == ("invalid", "no")


def test_a_session_draws_the_frames_of_a_lone_one(peer: Peer, tiny_world: World) -> None:
    opened = peer.ask("open", key=1, seed=7)
    with tiny_world.session(7) as lone:
        np.testing.assert_array_equal(pixels(opened), lone.reset(7))
        replies = [peer.step(opened.fields["sid"], action) for action in ACTIONS]
        np.testing.assert_array_equal([pixels(reply) for reply in replies], lone_frames(lone))
    assert [reply.fields["tick"] for reply in replies] == list(range(6))
    assert {reply.fields["status"] for reply in replies} == {"ok"}


def test_sessions_side_by_side_do_not_touch_each_other(peer: Peer, tiny_world: World) -> None:
    sids = [peer.open(seed) for seed in (1, 2, 3)]
    drawn: dict[int, list[np.ndarray]] = {sid: [] for sid in sids}
    for action in ACTIONS:
        for sid in sids:
            peer.send("step", sid=sid, action=action, budget_us=-1)
        for _ in sids:
            reply = peer.receive()
            drawn[reply.fields["sid"]].append(pixels(reply))
    for seed, sid in zip((1, 2, 3), sids, strict=True):
        with tiny_world.session(seed) as lone:
            np.testing.assert_array_equal(drawn[sid], lone_frames(lone))


def test_the_picture_it_starts_from_costs_nothing_more(
    peer: Peer, tiny_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    real = Engine.encode

    def encode(engine: Engine, frames: np.ndarray) -> np.ndarray:
        encoded.append(len(frames))
        return real(engine, frames)

    monkeypatch.setattr(Engine, "encode", encode)
    opened = peer.ask("open", key=1, seed=7)
    assert len(encoded) == 1
    with tiny_world.session(0) as lone:
        np.testing.assert_array_equal(pixels(opened), lone.reset(7))


def test_no_message_is_overlooked(tiny_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes when the server is about to wait for one, and a session's thread, which sends, uses up its signal."""
    monkeypatch.setattr("dsa_runtime.serving.server._BEAT_S", 2 * WAIT_S)  # at which it would be found
    at_the_door, goes_on = threading.Event(), threading.Event()
    real = zmq.Poller.poll

    def poll(poller: zmq.Poller, timeout: int | None = None) -> Any:
        if threading.current_thread().name == "test-server" and not at_the_door.is_set():
            at_the_door.set()
            assert goes_on.wait(WAIT_S)
        return real(poller, timeout)

    with (
        serve(tiny_world, tmp_path, lease_ms=600_000) as server,
        Peer.greeted(server.address) as peer,
        Peer.greeted(server.address) as other,
    ):
        sid = peer.open()
        held = Held(monkeypatch)
        step = peer.send("step", sid=sid, action=1, budget_us=-1)
        held.wait()
        monkeypatch.setattr(zmq.Poller, "poll", poll)
        other.ask("ping")
        assert at_the_door.wait(WAIT_S) and server._socket is not None
        ping = other.send("ping")
        assert select.select([server._socket.FD], [], [], WAIT_S)[0]
        held.let_go()
        assert peer.receive().id == step
        with server._lock:
            goes_on.set()
        assert other.receive().id == ping


def test_a_retried_open_makes_no_second_session(peer: Peer) -> None:
    first = peer.ask("open", key=5, seed=7)
    peer.step(first.fields["sid"])
    second = peer.ask("open", key=5, seed=7)
    assert second.fields == first.fields
    np.testing.assert_array_equal(pixels(second), pixels(first))
    assert peer.ask("stats").fields["sessions"] == 1
    assert refusal(peer.ask("fork", sid=first.fields["sid"], key=5)) == ("invalid", "no")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"seed": -1}, "invalid"), ({"seed": "7"}, "invalid"), ({"threshold": 2.0}, "invalid"),
        ({"threshold": "high"}, "invalid"), ({"max_steps": 0}, "invalid"), ({"on_miss": "panic"}, "invalid"),
        ({"on_miss": ["raise"]}, "invalid"), ({"world": "mars"}, "invalid"), ({"controller": 7}, "malformed"),
        ({"controller": {"policy": 7}}, "invalid"), ({"history": 10**6}, "malformed"),
        ({"frames": "gif"}, "malformed"), ({"frames": "jpeg", "quality": 0}, "malformed"),
        ({"lease_ms": 0}, "malformed"), ({"lease_ms": 10**9}, "malformed"), ({"publish": 1}, "malformed"),
        ({"key": -1}, "malformed"), ({"key": None}, "malformed"),
    ],
)  # fmt: skip
def test_an_open_that_is_refused_leaves_nothing_behind(peer: Peer, fields: dict[str, Any], code: str) -> None:
    assert refusal(peer.ask("open", **{"key": 3, **fields})) == (code, "no")
    assert peer.ask("stats").fields["sessions"] == 0
    assert peer.ask("open", key=3).type == "opened"  # the key is free


def test_a_req_socket_is_served(served: Server) -> None:
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(served.address)
        socket.send_multipart(pack(Message("hello", 8, {"min": 1, "max": 1})))
        assert socket.poll(WAIT_MS)
        reply = unpack(socket.recv_multipart())
        assert (reply.type, reply.id) == ("welcome", 8)
        socket.send(b"nonsense")
        assert socket.poll(WAIT_MS)
        assert refusal(unpack(socket.recv_multipart())) == ("malformed", "no")


def test_as_many_sessions_as_it_takes(tiny_world: World, tmp_path: Path) -> None:
    with serve(tiny_world, tmp_path, max_sessions=2) as server, Peer.greeted(server.address) as peer:
        first = peer.open()
        assert refusal(peer.ask("fork", sid=first, n=2, key=8)) == ("capacity", "no")
        assert peer.ask("fork", sid=first, n=1, key=9).type == "forked"
        reply = peer.ask("open", key=1)
        assert refusal(reply) == ("capacity", "no") and reply.fields["retry"] is True
        peer.ask("close", sid=first)
        assert peer.ask("open", key=1).type == "opened"


def test_a_defect_costs_one_reply(tiny_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[tuple[str, int, str]] = []

    class Watch(Observer):
        def failed(self, what: str, incident: int, error: Exception) -> None:
            failures.append((what, incident, str(error)))

    def broken(*_: object) -> bytes:
        raise RuntimeError("/secret/path")

    with serve(tiny_world, tmp_path, observer=Watch()) as server, Peer.greeted(server.address) as peer:
        sid = peer.open()
        monkeypatch.setattr(Session, "snapshot", broken)
        reply = peer.ask("snapshot", sid=sid)
        assert refusal(reply) == ("internal", "unknown") and "secret" not in reply.fields["msg"]
        assert peer.step(sid).type == "frame"
    [(what, incident, error)] = failures
    assert (incident, error) == (reply.fields["incident"], "/secret/path") and label(sid) in what


def test_what_an_observer_is_told(tiny_world: World, tmp_path: Path) -> None:
    told: list[tuple[Any, ...]] = []

    class Watch(Observer):
        def greeted(self, client: str) -> None:
            told.append(("greeted", client))

        def opened(self, sid: int, world: str) -> None:
            told.append(("opened", sid, world))

        def closed(self, sid: int, reason: str) -> None:
            told.append(("closed", sid, reason))

        def refused(self, code: str, problem: str) -> None:
            told.append(("refused", code))

        def request(self, type: str, code: str, seconds: float) -> None:
            assert seconds > 0
            told.append((type, code))

        def tick(self, tick: Tick) -> None:
            told.append(("tick", tick.tick))

    with serve(tiny_world, tmp_path, observer=Watch(), max_sessions=1) as server, Peer(server.address) as peer:
        peer.epoch = peer.ask("hello", min=1, max=1, client="evil\n\x1b[31m").fields["epoch"]
        sid = peer.open()
        peer.step(sid)
        peer.ask("open", key=77)
        peer.ask("launch")
        peer.send_parts([b"junk"])
        peer.receive()
    assert told == [
        ("greeted", "evil??[31m"), ("hello", "ok"), ("opened", sid, "tiny"), ("open", "ok"), ("step", "ok"),
        ("tick", 0), ("refused", "capacity"), ("open", "capacity"), ("unknown", "unsupported"),
        ("malformed", "malformed"), ("closed", sid, "stopped"),
    ]  # fmt: skip


def test_an_outcome_that_cannot_be_taken_in_costs_nobody_else(tiny_world: World, tmp_path: Path) -> None:
    failures: list[str] = []

    class Watch(Observer):
        def failed(self, what: str, incident: int, error: Exception) -> None:
            failures.append(f"{what}: {error}")

        def tick(self, tick: Tick) -> None:
            raise RuntimeError("no more threads")

    with serve(tiny_world, tmp_path, observer=Watch()) as server, Peer.greeted(server.address) as peer:
        sid = peer.open()
        for index in range(2):
            assert peer.step(sid).fields["tick"] == index
        assert peer.ask("ping").type == "pong"
    assert failures == ["outcome of step: no more threads"] * 2


def test_a_world_that_does_not_fit_into_a_message_is_not_served(
    tiny_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsa_runtime.serving.wire.HEADER_BYTES", 300)
    server = Server({"tiny": tiny_world}, ServerConfig(f"ipc://{private(tmp_path)}/dsa"))
    with pytest.raises(ServingError, match="world tiny: its description does not fit"):
        server.run()
    monkeypatch.undo()
    with serve(tiny_world, tmp_path) as other, Peer.greeted(other.address):
        pass  # the address is free again
