"""Worlds whose tick is a chunk of pictures, with a prompt, at a server: as in this process, whatever way the pictures
come, and over a restart."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dsa_runtime import (
    Connection,
    PromptError,
    Recording,
    RemoteSession,
    ServerGoneError,
    Session,
    World,
    connect,
    load_world,
)
from dsa_runtime.replay import verify_replay
from dsa_runtime.serving.config import ServerConfig
from dsa_runtime.serving.frame_ring import FrameReader
from dsa_runtime.serving.outlet import Outlet
from dsa_runtime.serving.server import Server
from dsa_runtime.serving.wire import Buffer, WireError
from tests.chunk_world import PICTURES, PROMPTS, TEXT_TOKENS, TEXT_WIDTH, write_chunk_world
from tests.serving.lives import Lives
from tests.serving.peer import WAIT_MS, Peer, pixels, refusal
from tests.serving.serve import serve
from tests.stages import WAIT_S

ACTIONS = [0, 1, 3, 2, 2]
SETTINGS = {"load_most": math.inf}
TEXT = np.random.default_rng(5).normal(0, 1, (2, TEXT_WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with load_world(write_chunk_world(tmp_path_factory.mktemp("worlds") / "chunks"), threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def server(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    with serve(world, folder, publish=f"ipc://{folder}/watch", **SETTINGS) as running:
        yield running


@pytest.fixture
def peer(server: Server) -> Iterator[Peer]:
    with Peer.greeted(server.address) as greeted:
        yield greeted


@pytest.fixture
def connection(server: Server) -> Iterator[Connection]:
    with connect(server.address) as connected:
        yield connected


def play(session: Session | RemoteSession, actions: Sequence[int] = ACTIONS) -> list[np.ndarray]:
    return [session.step(action, math.inf, steps=2).frames for action in actions]


@pytest.fixture(scope="module")
def expected(world: World) -> list[np.ndarray]:
    with world.session(7) as session:
        return play(session)


class TestPictures:
    @pytest.mark.parametrize("frames", ["part", "shm", "png"])
    def test_they_all_arrive(
        self, connection: Connection, world: World, expected: list[np.ndarray], frames: Any
    ) -> None:
        with connection.session(7, frames=frames, history=2) as session, world.session(8) as other:
            found = [session.step(action, math.inf, steps=2) for action in ACTIONS]
            np.testing.assert_array_equal([tick.frames for tick in found], expected)
            assert found[0].pixels.base is not None and np.shares_memory(found[0].pixels, found[0].frames[-1])
            np.testing.assert_array_equal(session.rewind(1), expected[-2][-1])
            np.testing.assert_array_equal(session.reset(8), other.reset(8))

    def test_as_a_file_they_lie_one_below_the_other(self, peer: Peer, expected: list[np.ndarray]) -> None:
        sid = peer.open(7, frames="jpeg", quality=95)
        buffer = peer.step(sid, ACTIONS[0], steps=2).buffer("frame")
        assert buffer.shape == (PICTURES, 8, 8, 3) and buffer.data is not None
        with Image.open(io.BytesIO(buffer.data)) as image:
            drawn = np.asarray(image)
        tall = expected[0].reshape(PICTURES * 8, 8, 3)
        assert drawn.shape == tall.shape and np.abs(drawn.astype(int) - tall).mean() < 16

    def test_the_ring_holds_whole_ticks_and_single_pictures(self, peer: Peer, expected: list[np.ndarray]) -> None:
        opened = peer.ask("open", key=1, seed=7, frames="shm")
        ring, first = opened.fields["ring"], opened.buffer("frame")
        assert first.shape == (8, 8, 3)
        with FrameReader(ring["path"], ring["token"]) as reader:
            assert reader.frame_bytes == PICTURES * 8 * 8 * 3
            assert reader.read(first.slot, first.seq, first.shape) is not None
            tick = peer.step(opened.fields["sid"], ACTIONS[0], steps=2).buffer("frame")
            assert tick.shape == (PICTURES, 8, 8, 3)
            np.testing.assert_array_equal(reader.read(tick.slot, tick.seq, tick.shape), expected[0])

    def test_spectators_see_the_newest(self, connection: Connection) -> None:
        with connection.session(7, publish=True) as session:
            assert session.topic is not None
            with connection.spectator(session.topic) as spectator:
                seen = None
                while seen is None or seen.decision is None:  # until the subscription has arrived
                    tick = session.step(1, math.inf)
                    assert tick.tick < WAIT_MS
                    seen = spectator.receive(10)
                while seen.tick < tick.tick:
                    seen = spectator.receive(WAIT_MS)
                    assert seen is not None
        np.testing.assert_array_equal(seen.pixels, tick.pixels)
        assert seen.decision is not None and seen.decision.frames.shape == (1, 8, 8, 3)

    def test_a_tick_that_fits_no_jpeg_is_refused(self, world: World) -> None:
        tall = dataclasses.replace(world.spec.frame, height=16384)
        with pytest.raises(WireError, match="do not fit into a JPEG"):
            Outlet(tall, ServerConfig("ipc:///nowhere"), "jpeg")


class TestPrompt:
    def test_what_there_is(self, peer: Peer, connection: Connection) -> None:
        told = peer.ask("specs").fields["spec"]
        assert told["frame"]["frames_per_tick"] == PICTURES
        assert told["text"] == {
            "width": TEXT_WIDTH, "tokens": TEXT_TOKENS, "encoder": "none", "prompts": list(PROMPTS),
        }  # fmt: skip
        with connection.session(7) as session:
            assert session.prompt == PROMPTS[0]

    @pytest.mark.parametrize("prompt", [PROMPTS[1], TEXT], ids=["name", "embeddings"])
    def test_at_open_and_later(self, connection: Connection, world: World, prompt: str | np.ndarray) -> None:
        with world.session(7, prompt=prompt) as local, connection.session(7, prompt=prompt) as session:
            np.testing.assert_array_equal(session.prompt, local.prompt)
            np.testing.assert_array_equal(play(session), play(local))
            for change in (PROMPTS[0], prompt):
                local.set_prompt(change)
                session.set_prompt(change)
                np.testing.assert_array_equal(session.prompt, local.prompt)
                np.testing.assert_array_equal(play(session), play(local))
            (branch,) = session.fork()
            np.testing.assert_array_equal(branch.prompt, local.prompt)
            np.testing.assert_array_equal(play(branch), play(local))
            branch.close()

    def test_it_comes_with_a_snapshot_by_its_name(self, connection: Connection, world: World) -> None:
        with world.session(7, prompt=PROMPTS[1]) as local, connection.session(7) as session:
            session.restore(local.snapshot())
            assert session.prompt == PROMPTS[1]
            session.reset(3)
            assert session.prompt == PROMPTS[1]
            local.set_prompt(TEXT)
            session.restore(local.snapshot())
            np.testing.assert_array_equal(session.prompt, local.prompt)

    @pytest.mark.parametrize(
        ("prompt", "kind"),
        [
            ("a calm see", "PromptError"),
            ("", "PromptError"),
            (np.zeros((1, TEXT_WIDTH - 1), np.float32), "PromptError"),
            (np.full((1, TEXT_WIDTH), np.nan, np.float32), "PromptError"),
            (np.zeros((TEXT_TOKENS + 1, TEXT_WIDTH), np.float32), "PromptError"),
            (np.zeros(TEXT_WIDTH, np.float32), None),
            (np.zeros((0, TEXT_WIDTH), np.float32), None),
            (np.zeros((1, TEXT_WIDTH)), None),
            (7, None),
            (None, None),
        ],
    )
    def test_a_wrong_one_changes_nothing(
        self, peer: Peer, expected: list[np.ndarray], prompt: Any, kind: str | None
    ) -> None:
        """Whatever a client lets through."""
        asked: dict[str, Any] = {"prompt": prompt}
        if isinstance(prompt, np.ndarray):
            data = Buffer("prompt", f"f{prompt.itemsize}", prompt.shape, prompt.tobytes())
            asked = {"buffers": (data,)}
        sid = peer.open(7)
        drawn = [pixels(peer.step(sid, action, steps=2)) for action in ACTIONS[:2]]
        wrong = peer.ask("prompt", sid=sid, **asked)
        assert refusal(wrong) == ("invalid" if kind else "malformed", "no") and wrong.fields.get("kind") == kind
        assert "prompt: " in wrong.fields["msg"]
        if prompt is not None:
            assert peer.ask("open", key=2, **asked).fields["code"] == wrong.fields["code"]
        drawn += [pixels(peer.step(sid, action, steps=2)) for action in ACTIONS[2:]]
        np.testing.assert_array_equal(drawn, expected)

    def test_a_name_and_embeddings_are_too_much(self, peer: Peer) -> None:
        both = peer.ask(
            "prompt", sid=peer.open(7), prompt=PROMPTS[1], buffers=(Buffer("prompt", "f4", (1, 5), bytes(20)),)
        )
        assert refusal(both) == ("malformed", "no")

    def test_its_client_is_told_what_to_do_instead(self, connection: Connection, expected: list[np.ndarray]) -> None:
        with connection.session(7) as session:
            with pytest.raises(PromptError, match="expected one of 'a calm sea', 'a storm'"):
                session.set_prompt("a calm see")
            with pytest.raises(PromptError, match="expected embeddings"):
                connection.session(7, prompt=TEXT[:, :1])
            np.testing.assert_array_equal(play(session), expected)

    def test_a_world_without_text(self, tiny_world: World, tmp_path: Path) -> None:
        with serve(tiny_world, tmp_path, **SETTINGS) as server, Peer.greeted(server.address) as peer:
            assert "text" not in peer.ask("specs").fields["spec"]
            sid = peer.open(7)
            assert peer.ask("prompt", sid=sid, prompt="a storm").fields["kind"] == "PromptError"
            assert "prompt" not in peer.ask("reset", sid=sid, seed=1).fields
            with connect(server.address) as connection, connection.session(7) as session:
                assert session.prompt is None
                with pytest.raises(PromptError, match="takes no text"):
                    session.set_prompt("a storm")


class TestLosses:
    @pytest.mark.parametrize("checkpoint_ticks", [1, 3, None])
    def test_a_session_that_is_made_again_has_its_prompt(
        self, world: World, tmp_path: Path, checkpoint_ticks: int | None
    ) -> None:
        with (
            Lives(world, tmp_path, **SETTINGS) as lives,
            connect(lives.server.address, timeout_ms=WAIT_S * 1000) as connection,
            connection.session(7, history=3, prompt=TEXT, recover=True, checkpoint_ticks=checkpoint_ticks) as session,
            world.session(7, history=3, prompt=TEXT) as local,
        ):

            def goes_on(actions: Sequence[int] = ACTIONS[:2]) -> None:
                np.testing.assert_array_equal(play(session, actions), play(local, actions))
                np.testing.assert_array_equal(session.prompt, local.prompt)

            lives.restart()
            goes_on()
            for each in (session, local):
                each.set_prompt(PROMPTS[1])
            lives.restart()
            goes_on()
            for each in (session, local):
                each.rewind(1)
                each.set_prompt(TEXT[:1])
                each.step(1, math.inf, steps=1)
                each.rewind(1)
            lives.restart()
            goes_on()
            for each in (session, local):
                each.reset(8)
            lives.restart()
            goes_on()
            (branch,) = session.fork()
            lives.restart()
            np.testing.assert_array_equal(play(branch), play(local))
            branch.close()

    def test_what_a_draining_server_hands_back_has_it_too(self, world: World, tmp_path: Path) -> None:
        with (
            Lives(world, tmp_path, expect_end=True, drain_s=60.0, **SETTINGS) as lives,
            connect(lives.server.address) as connection,
            connection.session(7) as session,
        ):
            session.set_prompt(PROMPTS[1])
            play(session)
            lives.server.drain()
            with pytest.raises(ServerGoneError) as gone:
                session.set_prompt(PROMPTS[0])
            assert lives.server.wait(WAIT_S)
        assert gone.value.snapshot is not None
        with world.session(0) as elsewhere, world.session(7, prompt=PROMPTS[1]) as local:
            elsewhere.restore(gone.value.snapshot)
            assert elsewhere.prompt == PROMPTS[1]
            np.testing.assert_array_equal(play(elsewhere), play(local, ACTIONS + ACTIONS)[len(ACTIONS) :])

    def test_the_servers_recording_can_be_replayed(self, world: World, tmp_path: Path) -> None:
        folder = tmp_path / "recordings"
        folder.mkdir()
        with (
            serve(world, tmp_path, record=folder, **SETTINGS) as server,
            connect(server.address) as connection,
            connection.session(7, prompt=PROMPTS[1]) as session,
        ):
            play(session)
            session.set_prompt(TEXT)
            play(session)
            session.reset(8)
            play(session, ACTIONS[:1])
        recorded = [Recording.load(file) for file in sorted(folder.iterdir())]
        assert [len(recording.prompts) for recording in recorded] == [2, 1]
        assert [verify_replay(world, recording) for recording in recorded] == [2 * len(ACTIONS), 1]
