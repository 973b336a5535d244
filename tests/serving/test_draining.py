"""How a server ends, and what becomes of its sessions and their recordings."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from dsa_runtime import Recording, Session, World
from dsa_runtime.replay import replay
from dsa_runtime.serving.observer import Observer, label
from dsa_runtime.serving.server import Server
from dsa_runtime.snapshot import decode
from tests.serving.held import Held
from tests.serving.peer import Peer, pixels, refusal, snapshot_of
from tests.serving.serve import serve


@pytest.fixture
def draining(tiny_world: World, tmp_path: Path) -> Iterator[Server]:
    """A server that the test drains; it has to end by itself."""
    with serve(tiny_world, tmp_path, expect_end=True, drain_s=60.0) as server:
        yield server


def test_sessions_are_handed_back_and_go_on_elsewhere(draining: Server, tiny_world: World) -> None:
    with Peer.greeted(draining.address) as peer:
        sid = peer.open(7)
        peer.step(sid, 1)
        last = peer.step(sid, 2, id=1000)
        draining.drain()
        handover = peer.receive()  # nobody asked for it
        assert (handover.type, handover.id, handover.fields["sid"]) == ("handover", 0, sid)
        assert peer.step(sid, 2, id=1000).fields == last.fields  # a retry still gets its reply
        assert refusal(peer.ask("open", key=1)) == ("draining", "no")
        other = Peer.greeted(draining.address)  # the server talks on
        other.close()
        reply = peer.step(sid, 3, id=1001)
        assert refusal(reply) == ("draining", "no") and reply.fields["retry"] is True
        assert reply.fields["tick"] == handover.fields["tick"] == 2
        assert snapshot_of(reply) == snapshot_of(handover)
        assert peer.ask("close", sid=sid).type == "closed"
        assert draining.wait(30.0)
    with tiny_world.session(0) as elsewhere, tiny_world.session(7) as lone:
        elsewhere.restore(snapshot_of(reply))
        for action in (1, 2):
            lone.step(action, math.inf)
        np.testing.assert_array_equal(elsewhere.step(3, math.inf).pixels, lone.step(3, math.inf).pixels)


def test_what_runs_is_finished_first(draining: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with Peer.greeted(draining.address) as peer:
        sid = peer.open(7)
        held = Held(monkeypatch)
        running = peer.send("step", sid=sid, action=1, budget_us=-1)
        held.wait()
        draining.drain()
        waiting = peer.send("step", sid=sid, action=2, budget_us=-1)
        assert not peer.hears(100)
        held.let_go()
        replies = [peer.receive() for _ in range(3)]
        assert [(reply.type, reply.id) for reply in replies] == [
            ("frame", running),
            ("handover", 0),
            ("error", waiting),
        ]
        assert refusal(replies[2]) == ("draining", "no") and replies[2].fields["tick"] == 1
        peer.ask("close", sid=sid)


def test_a_ping_fetches_a_session_and_closing_gives_it_up(draining: Server) -> None:
    with Peer.greeted(draining.address) as peer:
        pinged, closed = peer.open(1), peer.open(2)
        draining.drain()
        assert {peer.receive().fields["sid"] for _ in range(2)} == {pinged, closed}
        assert refusal(peer.ask("ping", sid=pinged)) == ("draining", "no")
        assert refusal(peer.ask("ping", sid=pinged)) == ("draining", "no")  # who asks again has heard
        assert not draining.wait(0.1)
        assert peer.ask("close", sid=closed).type == "closed"


@pytest.mark.parametrize("proof", ["close", "ping"])
def test_a_snapshot_that_was_sent_has_not_arrived_yet(draining: Server, proof: str) -> None:
    with Peer.greeted(draining.address) as peer, Peer.greeted(draining.address) as other:
        sid = peer.open()
        draining.drain()
        assert peer.receive().type == "handover"
        for _ in range(2):  # a retry: the reply before may have been lost, or be on its way
            assert refusal(peer.step(sid, id=1000)) == ("draining", "no")
        assert refusal(other.ask("ping", 5, sid=sid)) == ("draining", "no")  # it may not have reached this one either
        assert not draining.wait(0.1)
        other.ask(proof, 6, sid=sid)
        assert draining.wait(30.0)


def test_the_last_words_have_the_rest_of_the_time(draining: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    lingers: list[Any] = []
    real = Server._release

    def release(server: Server) -> None:
        assert server._socket is not None
        lingers.append(server._socket.getsockopt(zmq.LINGER))
        real(server)

    monkeypatch.setattr(Server, "_release", release)
    draining.drain()
    assert draining.wait(30.0)
    assert 30_000 < lingers[0] <= 60_000


def test_who_waits_for_a_session_that_is_closed_meanwhile_is_answered(
    draining: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Peer.greeted(draining.address) as peer:
        sid = peer.open()
        held = Held(monkeypatch)
        step = peer.send("step", sid=sid, action=1, budget_us=-1)
        held.wait()
        draining.drain()
        while not peer.ask("stats").fields["draining"]:
            pass
        ping, close = peer.send("ping", sid=sid), peer.send("close", sid=sid)
        reply = peer.receive()
        assert reply.id == step and refusal(reply) == ("cancelled", "no")
        held.let_go()
        replies = {reply.id: reply for reply in (peer.receive(), peer.receive())}
        assert refusal(replies[ping]) == ("draining", "no")
        assert replies[close].type == "closed"


def test_a_handover_says_the_tick_that_it_shows(
    draining: Server, tiny_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after a tick that was answered by `repeated`, which ends before it is taken."""
    with Peer.greeted(draining.address) as peer:
        sid = peer.open(on_miss="repeat")
        held = Held(monkeypatch)
        assert peer.step(sid, budget_us=20_000).fields["status"] == "repeated"
        real = Session.snapshot

        def snapshot(session: Session) -> bytes:
            held.let_go()
            return real(session)

        monkeypatch.setattr(Session, "snapshot", snapshot)
        draining.drain()
        handover = peer.receive()
        assert handover.fields["tick"] == decode(tiny_world.spec, snapshot_of(handover)).state.tick == 1
        peer.ask("close", sid=sid)


def test_a_server_without_sessions_ends_at_once(draining: Server) -> None:
    draining.drain()
    assert draining.wait(30.0)


def test_nobody_is_waited_for_longer_than_agreed(tiny_world: World, tmp_path: Path) -> None:
    with serve(tiny_world, tmp_path, expect_end=True, drain_s=0.1) as server, Peer.greeted(server.address) as peer:
        peer.open()
        server.drain()
        assert peer.receive().type == "handover"
        assert server.wait(30.0)


def test_a_session_that_cannot_be_written_down_is_given_up(draining: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> bytes:
        raise RuntimeError("made to fail")

    with Peer.greeted(draining.address) as peer:
        sid = peer.open()
        monkeypatch.setattr("dsa_runtime.session.Session.snapshot", broken)
        draining.drain()
        assert peer.receive().buffers == ()
        reply = peer.step(sid)
        assert refusal(reply) == ("draining", "no") and reply.buffers == ()
        peer.ask("close", sid=sid)


def test_stopping_answers_what_runs(tiny_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(tiny_world, tmp_path, expect_end=True) as server, Peer.greeted(server.address) as peer:
        sid = peer.open()
        held = Held(monkeypatch)
        step = peer.send("step", sid=sid, action=1, budget_us=-1)
        held.wait()
        server.stop()
        reply = peer.receive()
        assert reply.id == step and refusal(reply) == ("cancelled", "no")
        held.let_go()


def test_a_server_can_be_started_again_at_its_address(tiny_world: World, tmp_path: Path) -> None:
    epochs = set()
    with Peer(f"ipc://{tmp_path}/dsa") as peer:
        for _ in range(2):
            with serve(tiny_world, tmp_path):
                epochs.add(peer.ask("hello", min=1, max=1).fields["epoch"])
    assert len(epochs) == 2


def test_every_way_a_session_ends_leaves_its_recording(tiny_world: World, tmp_path: Path) -> None:
    reaped: list[int] = []

    class Watch(Observer):
        def closed(self, sid: int, reason: str) -> None:
            if reason == "reaped":
                reaped.append(sid)

    folder = tmp_path / "recordings"
    folder.mkdir()
    drawn: dict[int, list[np.ndarray]] = {}
    with serve(tiny_world, tmp_path, observer=Watch(), record=folder) as server, Peer.greeted(server.address) as peer:
        closed, lapses, stays = peer.open(1), peer.open(2, lease_ms=1000), peer.open(3)
        for sid in (closed, lapses, stays):
            drawn[sid] = [pixels(peer.step(sid, action)) for action in (1, 2)]
        peer.ask("reset", sid=stays, seed=1)  # the first half is kept
        peer.step(stays, 3)
        peer.ask("close", sid=closed)
        assert len(list(folder.glob(f"tiny-{label(closed)}-*.json"))) == 1
        peer.open(4)  # nothing was played: nothing to keep
        while not reaped:
            peer.ask("ping")
    files = sorted(path.name for path in folder.iterdir())
    names = [
        f"tiny-{label(closed)}-001",
        f"tiny-{label(lapses)}-001",
        f"tiny-{label(stays)}-001",
        f"tiny-{label(stays)}-002",
    ]
    assert files == sorted(f"{name}.json" for name in names)
    for sid, expected in drawn.items():
        recording = Recording.load(folder / f"tiny-{label(sid)}-001.json")
        np.testing.assert_array_equal([tick.pixels for tick in replay(tiny_world, recording)], expected)
    assert len(Recording.load(folder / f"tiny-{label(stays)}-002.json").decisions) == 1


def test_a_recording_that_cannot_be_written_is_logged_and_costs_nothing_else(tiny_world: World, tmp_path: Path) -> None:
    failures: list[str] = []

    class Watch(Observer):
        def failed(self, what: str, incident: int, error: Exception) -> None:
            failures.append(f"{what}: {type(error).__name__}")

    gone = tmp_path / "not" / "there"
    with serve(tiny_world, tmp_path, observer=Watch(), record=gone) as server, Peer.greeted(server.address) as peer:
        sid = peer.open()
        peer.step(sid)
        assert peer.ask("reset", sid=sid, seed=1).type == "picture"
        peer.step(sid)
        assert peer.ask("close", sid=sid).type == "closed"
    assert failures == [f"recording tiny-{label(sid)}-00{n}.json was lost: FileNotFoundError" for n in (1, 2)]
