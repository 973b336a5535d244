"""The server as its peers see it."""

from __future__ import annotations

import math
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from dsa_runtime import EngineError, Session, World, WorldSpec
from dsa_runtime.batch import Batch
from dsa_runtime.errors import ServingError
from dsa_runtime.serving.config import ServerConfig
from dsa_runtime.serving.frame_ring import FrameReader
from dsa_runtime.serving.host import Hosted, Outcome, Request, Surroundings
from dsa_runtime.serving.observer import Observer, label
from dsa_runtime.serving.pictures import decode_picture
from dsa_runtime.serving.server import Server
from dsa_runtime.serving.spectator import Spectator
from dsa_runtime.serving.wire import Buffer, Message, pack, unpack
from dsa_runtime.snapshot import decode
from dsa_runtime.tick import Tick
from tests.serving.held import Held
from tests.serving.peer import WAIT_MS, Peer, pixels, refusal
from tests.serving.serve import private, serve

ACTIONS = [0, 1, 3, 2, 2, 0]


def frames(peer: Peer, sid: int, actions: list[int] = ACTIONS) -> list[np.ndarray]:
    return [pixels(peer.step(sid, action)) for action in actions]


def lone_frames(session: Session, actions: list[int] = ACTIONS) -> list[np.ndarray]:
    return [session.step(action, math.inf).pixels for action in actions]


def snapshot_of(reply: Message) -> bytes:
    data = reply.buffer("snapshot").data
    assert data is not None
    return bytes(data)


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


def test_going_elsewhere(peer: Peer, tiny_world: World) -> None:
    sid = peer.open(7, history=4)
    with tiny_world.session(7, history=4) as lone:
        for _ in range(2):
            np.testing.assert_array_equal(frames(peer, sid), lone_frames(lone))
            back = peer.ask("rewind", sid=sid, ticks=3)
            np.testing.assert_array_equal(pixels(back), lone.rewind(3))
            assert (back.type, back.fields["tick"]) == ("picture", lone.tick)
        kept = peer.ask("snapshot", sid=sid)
        assert snapshot_of(kept) == lone.snapshot()
        reset = peer.ask("reset", sid=sid, seed=1)
        np.testing.assert_array_equal(pixels(reset), lone.reset(1))
        np.testing.assert_array_equal(frames(peer, sid, [1, 2]), lone_frames(lone, [1, 2]))
        restored = peer.ask("restore", sid=sid, buffers=kept.buffers)
        np.testing.assert_array_equal(pixels(restored), lone.restore(snapshot_of(kept)))
        assert (restored.fields["tick"], restored.fields["seed"]) == (lone.tick, 7)
        np.testing.assert_array_equal(frames(peer, sid), lone_frames(lone))


def test_forks_go_on_from_where_they_are_and_are_made_once(peer: Peer, tiny_world: World) -> None:
    sid = peer.open(7)
    frames(peer, sid, [1, 2])
    forked = peer.ask("fork", sid=sid, n=2, key=99)
    assert len(set(forked.fields["sids"])) == 2
    assert peer.ask("fork", sid=sid, n=2, key=99).fields["sids"] == forked.fields["sids"]
    assert peer.ask("stats").fields["sessions"] == 3
    with tiny_world.session(7) as lone:
        lone_frames(lone, [1, 2])
        for branch in forked.fields["sids"]:
            with lone.fork()[0] as expected:
                np.testing.assert_array_equal(frames(peer, branch), lone_frames(expected))
        np.testing.assert_array_equal(frames(peer, sid), lone_frames(lone))
    assert refusal(peer.ask("open", key=99)) == ("invalid", "no")


def test_a_retried_open_makes_no_second_session(peer: Peer) -> None:
    first = peer.ask("open", key=5, seed=7)
    peer.step(first.fields["sid"])
    second = peer.ask("open", key=5, seed=7)
    assert second.fields == first.fields
    np.testing.assert_array_equal(pixels(second), pixels(first))
    assert peer.ask("stats").fields["sessions"] == 1
    assert refusal(peer.ask("fork", sid=first.fields["sid"], key=5)) == ("invalid", "no")


@pytest.mark.parametrize("encoding", ["png", "jpeg"])
def test_pictures(peer: Peer, encoding: Any) -> None:
    raw = frames(peer, peer.open(7))
    sid = peer.open(7, frames=encoding, quality=95)
    for action, expected in zip(ACTIONS, raw, strict=True):
        buffer = peer.step(sid, action).buffer("frame")
        assert buffer.encoding == encoding and buffer.data is not None
        picture = decode_picture(buffer.data, encoding, buffer.shape)
        if encoding == "png":
            np.testing.assert_array_equal(picture, expected)
        else:
            assert np.abs(picture.astype(int) - expected).mean() < 16


def test_frames_in_shared_memory(peer: Peer) -> None:
    raw = frames(peer, peer.open(7))
    opened = peer.ask("open", key=1, seed=7, frames="shm")
    sid, ring = opened.fields["sid"], opened.fields["ring"]
    with FrameReader(ring["path"], ring["token"]) as reader:
        assert (reader.bytes, reader.slots) == (ring["bytes"], ring["slots"])
        for action, expected in zip(ACTIONS, raw, strict=True):
            buffer = peer.step(sid, action).buffer("frame")
            frame = reader.read(buffer.slot, buffer.seq, buffer.shape)
            np.testing.assert_array_equal(frame, expected)
    forked = peer.ask("fork", sid=sid, key=2)
    assert peer.step(forked.fields["sids"][0]).buffer("frame").data is not None
    peer.ask("close", sid=sid)
    assert not Path(ring["path"]).exists()


def test_a_session_can_be_configured_between_two_ticks(peer: Peer) -> None:
    sid = peer.open(7)
    peer.ask("configure", sid=sid, controller={"policy": "fixed", "max_steps": 3}, frames="png")
    reply = peer.step(sid)
    assert (reply.fields["steps"], reply.buffer("frame").encoding) == (3, "png")
    ring = peer.ask("configure", sid=sid, frames="shm").fields["ring"]
    assert peer.step(sid).buffer("frame").data is None
    peer.ask("configure", sid=sid, frames="part")
    assert not Path(ring["path"]).exists()
    reply = peer.step(sid)
    assert (reply.fields["steps"], reply.buffer("frame").encoding) == (3, "raw")


def test_a_configuration_that_fails_changes_nothing(peer: Peer) -> None:
    sid = peer.open(7, controller={"policy": "fixed", "max_steps": 2})
    for wrong in ({"target_steps": 99.0}, {"colour": 1}, {"rescue": 1}, {"policy": "luck"}):
        reply = peer.ask("configure", sid=sid, controller=wrong, frames="png")
        assert refusal(reply) == ("invalid", "no") and reply.fields["kind"] == "BudgetError", wrong
    reply = peer.step(sid)
    assert (reply.fields["steps"], reply.buffer("frame").encoding) == (2, "raw")


def test_spectators_see_what_is_published(tiny_world: World, tmp_path: Path) -> None:
    with serve(tiny_world, tmp_path, publish=f"ipc://{tmp_path}/watch") as server, Peer.greeted(server.address) as peer:
        address = peer.ask("hello", min=1, max=1).fields["publish"]
        opened = peer.ask("open", key=1, seed=7, publish=True)
        with Spectator(address, opened.fields["topic"]) as spectator:
            seen = None
            for _ in range(1000):  # until the subscription has arrived
                reply = peer.step(opened.fields["sid"])
                if (seen := spectator.receive(10)) is not None:
                    break
            assert seen is not None and seen.tick <= reply.fields["tick"]
            if seen.tick == reply.fields["tick"]:
                np.testing.assert_array_equal(seen.pixels, pixels(reply))
        assert "topic" not in peer.ask("open", key=2).fields


def test_publishing_is_refused_where_there_is_no_address(peer: Peer) -> None:
    assert refusal(peer.ask("open", key=1, publish=True)) == ("unsupported", "no")


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"action": 9}, "ActionError"),
        ({"action": None}, "ActionError"),
        ({"action": {"left": 1}}, "ActionError"),
        ({"action": b"1"}, "ActionError"),
        ({"action": [[1]] * 300}, "ActionError"),
        ({"action": 1, "steps": 99}, "BudgetError"),
        ({"action": 1, "steps": "2"}, "BudgetError"),
    ],
)
def test_a_refused_step_changes_nothing(peer: Peer, tiny_world: World, fields: Any, kind: str) -> None:
    sid = peer.open(7)
    reply = peer.ask("step", sid=sid, **fields)
    assert refusal(reply) == ("invalid", "no") and reply.fields["kind"] == kind
    with tiny_world.session(7) as lone:
        np.testing.assert_array_equal(frames(peer, sid), lone_frames(lone))


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


def test_restoring_something_else_changes_nothing(peer: Peer, tiny_world: World) -> None:
    sid = peer.open(7)
    whole = snapshot_of(peer.ask("snapshot", sid=sid))
    for damaged in (b"", whole[:-1], whole[:50] + b"x" + whole[51:]):
        reply = peer.ask("restore", sid=sid, buffers=(Buffer.of_bytes("snapshot", damaged),))
        assert refusal(reply) == ("invalid", "no") and reply.fields["kind"] == "SnapshotError"
    assert refusal(peer.ask("restore", sid=sid)) == ("malformed", "no")
    with tiny_world.session(7) as lone:
        np.testing.assert_array_equal(frames(peer, sid), lone_frames(lone))


def test_the_deadline(peer: Peer, held: Held) -> None:
    sid = peer.open(7, on_miss="raise")
    assert refusal(peer.step(sid, budget_us=20_000)) == ("deadline", "no")
    held.let_go()
    reply = peer.step(sid)
    assert (reply.fields["tick"], reply.fields["budget_us"], reply.fields["slack_us"]) == (0, -1, None)


def test_repeated_frames(peer: Peer, held: Held) -> None:
    sid = peer.open(7, on_miss="repeat")
    reply = peer.step(sid, budget_us=20_000)
    assert (reply.fields["status"], reply.fields["frame_tick"]) == ("repeated", -1)
    held.let_go()
    assert peer.step(sid).fields["tick"] == 1


def test_a_snapshot_says_the_tick_that_it_shows(
    peer: Peer, held: Held, tiny_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after a tick that was answered by `repeated`, which ends before it is taken."""
    sid = peer.open(7, on_miss="repeat")
    assert peer.step(sid, budget_us=20_000).fields["status"] == "repeated"
    real = Session.snapshot

    def snapshot(session: Session) -> bytes:
        held.let_go()
        return real(session)

    monkeypatch.setattr(Session, "snapshot", snapshot)
    reply = peer.ask("snapshot", sid=sid)
    assert reply.fields["tick"] == decode(tiny_world.spec, snapshot_of(reply)).state.tick == 1


def test_the_default_budget_is_one_native_period(peer: Peer, tiny_world: World) -> None:
    reply = peer.ask("step", sid=peer.open(), action=1)
    assert reply.fields["budget_us"] == round(tiny_world.spec.frame.period_ms * 1000)


def test_a_step_is_cancelled_from_another_connection(served: Server, peer: Peer, held: Held, tiny_world: World) -> None:
    sid = peer.open(7)
    id = peer.send("step", sid=sid, action=3, budget_us=-1)
    with Peer.greeted(served.address) as other:
        assert other.ask("cancel", sid=sid).fields["cancelled"] is True
    reply = peer.receive()
    assert reply.id == id and refusal(reply) == ("cancelled", "no")
    held.let_go()
    assert peer.ask("cancel", sid=sid).fields["cancelled"] is False
    with tiny_world.session(7) as lone:
        np.testing.assert_array_equal(frames(peer, sid), lone_frames(lone))


def test_a_cancel_on_the_heels_of_its_step_is_heard(peer: Peer, held: Held) -> None:
    """Wherever the step is by then: in the session's queue, about to begin, or running."""
    sid = peer.open(7)
    for _ in range(50):
        step = peer.send("step", sid=sid, action=1, budget_us=-1)
        cancel = peer.send("cancel", sid=sid)
        replies = {reply.id: reply for reply in (peer.receive(), peer.receive())}
        assert refusal(replies[step]) == ("cancelled", "no")
        assert replies[cancel].fields["cancelled"] is True
    held.let_go()
    assert peer.step(sid).fields["tick"] == 0


def test_a_cancel_of_another_step_stops_nothing(peer: Peer, held: Held) -> None:
    """As one that is asked again, because the reply was lost."""
    sid = peer.open(7)
    step = peer.send("step", 20, sid=sid, action=1, budget_us=-1)
    held.wait()
    assert peer.ask("cancel", 21, sid=sid, of=19).fields["cancelled"] is False
    assert refusal(peer.ask("cancel", 22, sid=sid, of="last")) == ("malformed", "no")
    peer.send("cancel", 23, sid=sid, of=step)
    replies = {reply.id: reply for reply in (peer.receive(), peer.receive())}
    assert replies[23].fields["cancelled"] is True
    assert refusal(replies[step]) == ("cancelled", "no")


def test_what_was_answered_is_let_go(tiny_world: World) -> None:
    """A snapshot of many megabytes does not stay until the session is asked something else."""
    asked: list[weakref.ref[Request]] = []

    def perform(hosted: Hosted, request: Request) -> Outcome:
        asked.append(weakref.ref(request))
        return Outcome(request.message)

    around = Surroundings(ServerConfig("ipc:///nowhere"), Observer(), None, lambda *_: None, perform)
    hosted = Hosted("tiny", tiny_world, around, 1, 1000)
    hosted.post(Request(Message("restore", 1), None))
    give_up = time.monotonic() + WAIT_MS / 1000
    while not asked or asked[0]() is not None:
        assert time.monotonic() < give_up, "it is still there"
        time.sleep(0.01)
    hosted.dismiss()
    assert hosted.join(WAIT_MS / 1000)


def test_closing_stops_the_step_that_runs(peer: Peer, held: Held) -> None:
    sid = peer.open(7)
    step = peer.send("step", sid=sid, action=1, budget_us=-1)
    held.wait()
    close = peer.send("close", sid=sid)
    reply = peer.receive()
    assert reply.id == step and refusal(reply) == ("cancelled", "no")
    held.let_go()
    reply = peer.receive()
    assert (reply.id, reply.type) == (close, "closed")
    assert peer.ask("stats").fields["sessions"] == 0


def test_closing_is_idempotent_and_final(peer: Peer) -> None:
    sid = peer.open()
    for _ in range(2):
        assert peer.ask("close", sid=sid).type == "closed"
    for kind in ("step", "ping", "cancel", "snapshot"):
        assert refusal(peer.ask(kind, sid=sid)) == ("session", "no")


def test_a_lease_is_renewed_by_pings_and_then_runs_out(tiny_world: World, tmp_path: Path) -> None:
    reaped: list[int] = []

    class Watch(Observer):
        def reaped(self, sid: int) -> None:
            reaped.append(sid)

    with serve(tiny_world, tmp_path, observer=Watch()) as server, Peer.greeted(server.address) as peer:
        opened = peer.ask("open", key=1, frames="shm", lease_ms=1000)
        sid, path = opened.fields["sid"], Path(opened.fields["ring"]["path"])
        for _ in range(8):
            assert not peer.hears(200)
            assert peer.ask("ping", sid=sid).type == "pong"
        while not reaped:
            assert not peer.hears(100)
        assert refusal(peer.ask("step", sid=sid, action=1)) == ("session", "no")
        assert peer.ask("stats").fields["reaped"] == 1
    assert reaped == [sid] and not path.exists()


def test_a_running_request_is_not_reaped(peer: Peer, held: Held) -> None:
    sid = peer.open(lease_ms=50)
    peer.send("step", sid=sid, action=1, budget_us=-1)
    held.wait()
    assert not peer.hears(200)
    held.let_go()
    assert peer.receive().type == "frame"


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


def test_the_engine_fails(peer: Peer, tiny_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    sid = peer.open(7)

    def broken(*_: object) -> int:
        raise EngineError("denoise: /secret/path is gone")

    with monkeypatch.context() as patch:
        patch.setattr(Batch, "denoise", broken)
        reply = peer.step(sid)
    assert refusal(reply) == ("internal", "no") and reply.fields["kind"] == "EngineError"
    assert "secret" not in reply.fields["msg"] and f"incident {reply.fields['incident']}" in reply.fields["msg"]
    with tiny_world.session(7) as lone:
        np.testing.assert_array_equal(frames(peer, sid), lone_frames(lone))


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
