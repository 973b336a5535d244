"""Sessions that are moved: reset, restored, rewound, forked."""

from __future__ import annotations

import numpy as np
import pytest

from dsa_runtime import Session, World
from dsa_runtime.serving.wire import Buffer
from dsa_runtime.snapshot import decode
from tests.serving.drawn import frames, lone_frames
from tests.serving.held import Held
from tests.serving.peer import Peer, pixels, refusal, snapshot_of


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


def test_restoring_something_else_changes_nothing(peer: Peer, tiny_world: World) -> None:
    sid = peer.open(7)
    whole = snapshot_of(peer.ask("snapshot", sid=sid))
    for damaged in (b"", whole[:-1], whole[:50] + b"x" + whole[51:]):
        reply = peer.ask("restore", sid=sid, buffers=(Buffer.of_bytes("snapshot", damaged),))
        assert refusal(reply) == ("invalid", "no") and reply.fields["kind"] == "SnapshotError"
    assert refusal(peer.ask("restore", sid=sid)) == ("malformed", "no")
    with tiny_world.session(7) as lone:
        np.testing.assert_array_equal(frames(peer, sid), lone_frames(lone))


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
