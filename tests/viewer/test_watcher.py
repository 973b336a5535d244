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
from dsa_runtime.serving import spectator
from dsa_runtime.serving.server import Server
from dsa_runtime.viewer.command import Away, Here, Reset, Watch
from dsa_runtime.viewer.outbox import Outbox
from dsa_runtime.viewer.packing import describe
from dsa_runtime.viewer.watcher import Watcher
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
        self.problems: list[str] = []

    @property
    def tick(self) -> int | None:
        """That it shows, with what was decided in it."""
        lanes = self.pictures.head.get("lanes") if self.pictures is not None else None
        return lanes[0]["tick"] if lanes else None

    def look(self) -> None:
        self.watcher.beat()
        for message in self.out.take():
            if isinstance(message, bytes):
                self.pictures = unpack(message)
                self.out.seen()
            else:
                said = json.loads(message)
                if said["is"] == "problem":
                    self.problems.append(said["text"])
                else:
                    self.said = said

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
    with (
        connect(served.address) as client,
        client.session(3, publish=True, history=2) as one,
        client.session(4) as unseen,
    ):
        unseen.step(1)
        looks.watcher.perform(Here())
        looks.until(lambda: looks.pictures is not None, lambda: one.step(2, math.inf))
        newest = one.step(3, math.inf)
        looks.until(lambda: looks.tick == newest.tick)
        assert looks.pictures is not None and one.topic is not None
        np.testing.assert_array_equal(looks.pictures.pictures[0], newest.pixels)
        steps = one.spec.schedule.steps
        decided = {"stamp": None, "topic": one.topic.hex(), "steps": steps, "lanes": [describe(newest, steps)]}
        assert (looks.pictures.kind, looks.pictures.head) == ("ticks", decided)
        assert len(decided["lanes"][0]["confidences"]) == newest.steps > 0
        one.rewind(1)
        looks.until(lambda: looks.pictures is not None and looks.pictures.kind == "pictures")
        assert looks.pictures.head == {"tick": newest.tick, "topic": one.topic.hex(), "decides": True}
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
            looks.until(lambda: looks.tick == last.tick)
            assert looks.pictures.head["topic"] == two.topic.hex()
            np.testing.assert_array_equal(looks.pictures.pictures[0], last.pixels)
        looks.now_s = 20.0
        looks.look()
        assert looks.said["sessions"] == [] and looks.said["topic"] is None, "forgotten when nothing comes"
    looks.watcher.close()


def test_nothing_piles_up_while_nobody_looks(served: Server) -> None:
    looks = Onlooker(served)
    with connect(served.address) as client, client.session(3, publish=True) as one:
        looks.watcher.perform(Here())
        looks.until(lambda: looks.pictures is not None, lambda: one.step(2, math.inf))
        looks.watcher.perform(Away())
        while True:  # the server hears of it a little later
            hidden = one.step(1, math.inf)
            if not looks.watcher._socket.poll(100):
                break
            looks.watcher._socket.recv()
        looks.now_s = 60.0
        looks.watcher.perform(Here())
        looks.until(lambda: (looks.tick or 0) > hidden.tick, lambda: one.step(2, math.inf))
        assert one.topic is not None
        assert looks.said["topic"] == one.topic.hex(), "it is not forgotten for that"
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


def test_frames_of_other_versions_are_shown_or_told_once(served: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Onlooker(served)
    looks.watcher.perform(Here())
    pixels = np.full((1, 2, 3), 7, np.uint8)
    version = 3
    for_all = served._publisher
    assert for_all is not None

    def publish() -> None:
        monkeypatch.setattr(spectator, "VERSION", version)
        for_all.publish(b"\0topic-1", 5, pixels)
        time.sleep(0.001)

    looks.until(lambda: bool(looks.problems), publish)
    for _ in range(20):
        publish()
        looks.look()
    assert looks.pictures is None
    assert looks.problems == ["published frames of version 3, and this runtime reads 1 and 2: update dsa-runtime"]
    version = 1
    looks.until(lambda: looks.pictures is not None, publish)
    assert looks.pictures is not None
    assert looks.pictures.head == {"tick": 5, "topic": b"\0topic-1".hex(), "decides": False}
    np.testing.assert_array_equal(looks.pictures.pictures[0], pixels)
    looks.watcher.close()
