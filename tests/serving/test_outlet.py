"""How a session's frames leave: pictures, shared memory, spectators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import numpy as np
import pytest

from dsa_runtime import World
from dsa_runtime.serving.frame_ring import FrameReader
from dsa_runtime.serving.pictures import decode_picture
from dsa_runtime.serving.spectator import Spectator, read_published
from dsa_runtime.serving.wire_tick import tick_of
from tests.serving.drawn import ACTIONS, frames
from tests.serving.peer import WAIT_MS, Peer, pixels, refusal
from tests.serving.serve import serve


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
            reply = peer.step(opened.fields["sid"])
            while seen.tick < reply.fields["tick"]:
                assert spectator._socket.poll(WAIT_MS)
                seen = read_published(message := spectator._socket.recv())[1]
            assert seen.decision is not None and seen.schedule_steps == tiny_world.spec.schedule.steps
            mine = tick_of(reply.fields, pixels(reply))
            for name in vars(mine).keys() - {"pixels", "frames"}:
                assert getattr(seen.decision, name) == getattr(mine, name), name
            np.testing.assert_array_equal(seen.decision.pixels, mine.pixels)
            assert msgpack.packb(opened.fields["sid"]) not in message, "who knows it owns the session"
        assert "topic" not in peer.ask("open", key=2).fields


def test_publishing_is_refused_where_there_is_no_address(peer: Peer) -> None:
    assert refusal(peer.ask("open", key=1, publish=True)) == ("unsupported", "no")
