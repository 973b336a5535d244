"""Steps at a server: refused, late, repeated, cancelled."""

from __future__ import annotations

import time
import weakref
from typing import Any

import numpy as np
import pytest

from dsa_runtime import EngineError, World
from dsa_runtime.batch import Batch
from dsa_runtime.serving.config import ServerConfig
from dsa_runtime.serving.host import Hosted, Outcome, Request, Surroundings
from dsa_runtime.serving.observer import Observer
from dsa_runtime.serving.server import Server
from dsa_runtime.serving.wire import Message
from tests.serving.drawn import frames, lone_frames
from tests.serving.held import Held
from tests.serving.peer import WAIT_MS, Peer, refusal


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
