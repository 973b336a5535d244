"""Requests that come again: nothing happens twice, and everybody is answered."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from dsa_runtime import World
from dsa_runtime.serving.server import Server
from tests.serving.drawn import ACTIONS, alone
from tests.serving.held import Held
from tests.serving.peer import Peer, pixels, refusal


def test_a_retry_gets_the_stored_reply_and_moves_nothing(served: Server, peer: Peer, tiny_world: World) -> None:
    sid = peer.open(7)
    drawn = []
    for index, action in enumerate(ACTIONS):
        first = peer.step(sid, action, id=100 + index)
        with Peer.greeted(served.address) as other:  # as after a reconnection
            again = other.step(sid, action, id=100 + index)
        assert again.fields == first.fields
        np.testing.assert_array_equal(pixels(again), pixels(first))
        drawn.append(pixels(first))
    np.testing.assert_array_equal(drawn, alone(tiny_world))


def test_a_retry_of_an_error_gets_the_error(peer: Peer) -> None:
    sid = peer.open(7)
    first = peer.ask("step", 5, sid=sid, action=9)
    assert peer.ask("step", 5, sid=sid, action=1).fields == first.fields
    assert peer.ask("step", 6, sid=sid, action=1).fields["tick"] == 0


def test_a_retry_of_something_long_answered_is_refused(peer: Peer) -> None:
    sid = peer.open(7)
    peer.step(sid, id=10)
    peer.step(sid, id=11)
    for id in (10, 1, 0):
        assert refusal(peer.step(sid, id=id)) == ("invalid", "unknown")
    assert peer.step(sid, id=2**64 - 1).fields["tick"] == 2
    assert refusal(peer.step(sid, id=12)) == ("invalid", "unknown")


def test_ids_begin_at_one(peer: Peer) -> None:
    assert refusal(peer.step(peer.open(7), id=0)) == ("invalid", "unknown")


def test_a_retry_while_it_runs_is_answered_to_the_newest_asker(
    served: Server, peer: Peer, held: Held, tiny_world: World
) -> None:
    sid = peer.open(7)
    peer.send("step", 50, sid=sid, action=3, budget_us=-1)
    held.wait()
    with Peer.greeted(served.address) as other:
        other.send("step", 50, sid=sid, action=3, budget_us=-1)
        assert other.ask("ping").type == "pong"  # it has been read
        held.let_go()
        reply = other.receive()
    assert (reply.id, reply.fields["tick"]) == (50, 0)
    np.testing.assert_array_equal([pixels(reply)], alone(tiny_world, [3]))
    assert not peer.hears(100)
    assert peer.step(sid, id=51).fields["tick"] == 1


def test_a_second_request_in_flight_is_busy_and_can_be_asked_again(peer: Peer, held: Held) -> None:
    sid = peer.open(7)
    peer.send("step", 20, sid=sid, action=1, budget_us=-1)
    held.wait()
    for kind in ("step", "snapshot", "reset", "fork", "configure"):
        reply = peer.ask(kind, 21, sid=sid, action=1)
        assert refusal(reply) == ("busy", "no") and reply.fields["retry"] is True
    assert refusal(peer.step(sid, id=19)) == ("invalid", "unknown")
    assert peer.ask("ping", sid=sid).type == "pong"
    held.let_go()
    assert peer.receive().id == 20
    assert peer.step(sid, id=21).fields["tick"] == 1


def test_an_open_is_retried_while_it_runs(
    served: Server, peer: Peer, tiny_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    real = World.session

    def slow(world: World, *arguments: Any, **settings: Any) -> Any:
        begun.set()
        assert go_on.wait(30)
        return real(world, *arguments, **settings)

    monkeypatch.setattr(World, "session", slow)
    peer.send("open", 1, key=5)
    assert begun.wait(30)
    with Peer.greeted(served.address) as other:
        other.send("open", 77, key=5)
        assert other.ask("stats").fields["sessions"] == 1
        go_on.set()
        assert other.receive().id == 77
    assert peer.ask("stats").fields["opened"] == 1


def test_a_fork_with_the_key_of_an_open_that_still_runs(
    served: Server, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sid = peer.open()
    begun, go_on = threading.Event(), threading.Event()
    real = World.session

    def slow(world: World, *arguments: Any, **settings: Any) -> Any:
        begun.set()
        assert go_on.wait(30)
        return real(world, *arguments, **settings)

    monkeypatch.setattr(World, "session", slow)
    with Peer.greeted(served.address) as other:
        other.send("open", 77, key=5)
        assert begun.wait(30)
        reply = peer.ask("fork", sid=sid, key=5)
        go_on.set()
        assert refusal(reply) == ("invalid", "no")
        assert other.receive().type == "opened"


def test_a_stale_epoch_runs_nothing(peer: Peer) -> None:
    sid = peer.open(7)
    peer.epoch ^= 1
    for kind in ("step", "open", "close", "ping", "stats", "specs"):
        assert refusal(peer.ask(kind, sid=sid, key=1, action=1)) == ("epoch", "no")
    peer.epoch ^= 1
    assert peer.step(sid).fields["tick"] == 0
    assert peer.ask("stats").fields["sessions"] == 1
