"""Watcher: looks on at a running server, and touches nothing."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsa_runtime import ServingError, World, connect
from dsa_runtime.serving.server import Server
from dsa_runtime.viewer.command import Here, Reset, Watch
from dsa_runtime.viewer.outbox import Outbox
from dsa_runtime.viewer.watcher import Watcher, read_published
from tests.serving.serve import private, serve
from tests.viewer.unpack import Unpacked, unpack

PATIENCE_S = 60.0


class Onlooker:
    """A watcher, what it has shown and said, and its clock."""

    def __init__(self, server: Server) -> None:
        self.now_s, self.out = 0.0, Outbox()
        self.watcher = Watcher(lambda: connect(server.address, timeout_ms=500), None, self.out, lambda: self.now_s)
        self.pictures: Unpacked | None = None
        self.said: dict[str, Any] = {}

    def look(self) -> None:
        self.watcher.beat()
        for message in self.out.take():
            if isinstance(message, bytes):
                self.pictures = unpack(message)
                self.out.seen()
            else:
                self.said = json.loads(message)

    def until(self, holds: Callable[[], bool], meanwhile: Callable[[], object] = lambda: None) -> None:
        give_up = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < give_up, "nothing came"
            meanwhile()
            self.look()


@pytest.fixture
def served(tiny_world: World, tmp_path: Path) -> Iterator[Server]:
    publish = f"ipc://{private(tmp_path / 'shown')}/frames"
    with serve(tiny_world, tmp_path, publish=publish, load_most=float("inf")) as server:
        yield server


def test_it_shows_a_published_session_and_counts(served: Server) -> None:
    looks = Onlooker(served)
    with connect(served.address) as client, client.session(3, publish=True) as one, client.session(4) as unseen:
        unseen.step(1)
        looks.watcher.perform(Here())
        looks.until(lambda: looks.pictures is not None, lambda: one.step(2, math.inf))
        newest = one.step(3, math.inf)
        looks.until(lambda: looks.pictures is not None and looks.pictures.head == {"tick": newest.tick})
        assert looks.pictures is not None and one.topic is not None
        np.testing.assert_array_equal(looks.pictures.pictures[0], newest.pixels)
        with client.session(5, publish=True) as two:
            assert two.topic is not None
            topics = {one.topic.hex(), two.topic.hex()}
            two.step(1, math.inf)
            looks.until(lambda: set(looks.watcher._sessions) == {one.topic, two.topic}, lambda: two.step(1, math.inf))
            looks.now_s = 2.0
            looks.look()
            assert {session["topic"] for session in looks.said["sessions"]} == topics
            assert looks.said["topic"] == one.topic.hex() and looks.said["server"]["sessions"] == 3
            looks.watcher.perform(Watch(two.topic.hex()))
            last = two.step(0, math.inf)
            looks.until(lambda: looks.pictures is not None and looks.pictures.head == {"tick": last.tick})
            np.testing.assert_array_equal(looks.pictures.pictures[0], last.pixels)
        looks.now_s = 20.0
        looks.look()
        assert looks.said["sessions"] == [] and looks.said["topic"] is None, "forgotten when nothing comes"
    looks.watcher.close()


def test_it_only_looks_on(served: Server) -> None:
    looks = Onlooker(served)
    with pytest.raises(ServingError, match="only looks on"):
        looks.watcher.perform(Reset("1"))
    for topic in ("", "no", "zz" * 8, "00" * 8):
        with pytest.raises(ServingError, match="no such session"):
            looks.watcher.perform(Watch(topic))
    looks.watcher.close()


def test_a_server_that_is_gone_or_shows_nothing_is_said(tiny_world: World, tmp_path: Path, served: Server) -> None:
    looks = Onlooker(served)
    served.stop()
    looks.now_s = 2.0
    looks.until(lambda: "gone" in looks.said.get("server", {}), lambda: setattr(looks, "now_s", looks.now_s + 1))
    looks.watcher.close()
    with (
        serve(tiny_world, private(tmp_path / "silent")) as silent,
        pytest.raises(ServingError, match="start it with --publish"),
    ):
        Onlooker(silent)


def test_what_is_no_published_frame_is_left_out() -> None:
    assert read_published(b"") is None
    assert read_published(bytes(100)) is None
    assert read_published(b"\0topic-1DSAP\1\0\0\0" + bytes(8) + b"\1\0\0\0\1\0\0\0" + b"rg") is None
