"""Recording: saved and loaded without loss, replayed bit for bit, and refused where it does not fit."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsa_runtime import Box, MultiBinary, World, load_world
from dsa_runtime.errors import RecordingError
from dsa_runtime.recording import Decision, Recording, digest
from dsa_runtime.replay import replay, verify_replay
from tests.tiny_world import write_tiny_world

ACTIONS = [0, 1, 3, 2, 2, 0, 1, 1]
BUTTONS = MultiBinary(3, ("left", "right", "fire"))
LEVERS = Box((-1.0, 0.0), (1.0, 1.1), ("turn", "pull"), ("", ""))

REPLAY_ELSEWHERE = """
import sys
from dsa_runtime import load_world
from dsa_runtime.recording import Recording
from dsa_runtime.replay import verify_replay
with load_world(sys.argv[1], threads=1) as world:
    print(verify_replay(world, Recording.load(sys.argv[2])))
"""


def play(world: World, actions: list[Any], seed: int = 5) -> tuple[Recording, list[np.ndarray]]:
    with world.session(seed, record=True) as session:
        pixels = [session.step(action, math.inf).pixels for action in actions]
        assert session.recording is not None
        return session.recording, pixels


@pytest.fixture(scope="module")
def recording(tiny_world: World) -> Recording:
    return play(tiny_world, ACTIONS)[0]


@pytest.fixture
def resumed(tiny_world: World) -> Recording:
    """A recording that starts from a snapshot, at tick 3."""
    with tiny_world.session(5) as first, tiny_world.session(0, record=True) as second:
        for action in ACTIONS[:3]:
            first.step(action, math.inf)
        second.restore(first.snapshot())
        for action in ACTIONS:
            second.step(action, math.inf)
        assert second.recording is not None
        return second.recording


def test_a_recording_says_where_it_belongs(tiny_world: World, recording: Recording, resumed: Recording) -> None:
    spec = tiny_world.spec
    assert (recording.world, recording.version) == (spec.name, spec.version)
    assert recording.fingerprint == spec.fingerprint
    assert (recording.seed, recording.first_tick, recording.snapshot) == (5, 0, None)
    assert (resumed.seed, resumed.first_tick) == (5, 3)
    assert resumed.snapshot is not None


def test_a_file_brings_everything_back(recording: Recording, resumed: Recording, tmp_path: Path) -> None:
    for before in (recording, resumed, dataclasses.replace(recording, decisions=[], seed=2**64 - 1)):
        before.save(tmp_path / "play.json")
        assert Recording.load(tmp_path / "play.json") == before
        assert Recording.load(str(tmp_path / "play.json")) == before
    assert os.listdir(tmp_path) == ["play.json"]


def test_the_file_is_plain_json(recording: Recording, resumed: Recording, tmp_path: Path) -> None:
    resumed.decisions[1] = dataclasses.replace(resumed.decisions[1], threshold=None)
    resumed.save(tmp_path / "play.json")
    text = (tmp_path / "play.json").read_text()
    document = json.loads(text)
    assert (document["format"], document["format_version"]) == ("dsa-recording", 1)
    assert base64.b64decode(document["snapshot"]) == resumed.snapshot
    assert [entry["action"] for entry in document["decisions"]] == ACTIONS
    assert document["decisions"][1]["threshold"] is None
    assert sum(line.startswith('{"action"') for line in text.splitlines()) == len(ACTIONS)  # a line for each


@pytest.mark.parametrize("space", [BUTTONS, LEVERS])
def test_actions_of_every_space_come_back(space: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with load_world(write_tiny_world(tmp_path / "world", space), threads=1) as world:
        if space is BUTTONS:
            actions = [rng.integers(0, 2, 3) for _ in range(4)]
        else:
            # Also at the bound 1.1, which float32 cannot hold exactly.
            actions = [np.array([rng.uniform(-1, 1), 1.1], np.float32) for _ in range(4)]
        recording, pixels = play(world, actions)
        recording.save(tmp_path / "play.json")
        loaded = Recording.load(tmp_path / "play.json")
        for decision, action in zip(loaded.decisions, actions, strict=True):
            assert space.encode(decision.action).tobytes() == space.encode(action).tobytes()
        assert verify_replay(world, loaded) == 4
        assert [digest(tick.pixels) for tick in replay(world, loaded)] == [digest(frame) for frame in pixels]


def test_a_failed_save_keeps_the_file_that_was_there(
    recording: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording.save(tmp_path / "play.json")
    before = (tmp_path / "play.json").read_bytes()

    def full(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        dataclasses.replace(recording, decisions=[]).save(tmp_path / "play.json")
    assert os.listdir(tmp_path) == ["play.json"]
    assert (tmp_path / "play.json").read_bytes() == before


def test_replay_draws_the_same_frames(tiny_world: World) -> None:
    with tiny_world.session(9, record=True) as session:
        played = [session.step(action, math.inf, steps=1 + index % 4) for index, action in enumerate(ACTIONS)]
        recording = session.recording
    assert recording is not None
    replayed = list(replay(tiny_world, recording))
    for before, after in zip(played, replayed, strict=True):
        np.testing.assert_array_equal(before.pixels, after.pixels)
        assert (before.tick, before.steps, before.confidence) == (after.tick, after.steps, after.confidence)


def test_replay_from_a_snapshot(tiny_world: World, resumed: Recording) -> None:
    ticks = list(replay(tiny_world, resumed))
    assert [tick.tick for tick in ticks] == list(range(3, 3 + len(ACTIONS)))
    assert [digest(tick.pixels) for tick in ticks] == [decision.digest for decision in resumed.decisions]
    assert verify_replay(tiny_world, resumed) == len(ACTIONS)


def test_replay_in_another_process(
    tiny_package: Path, recording: Recording, resumed: Recording, tmp_path: Path
) -> None:
    for saved in (recording, resumed):
        saved.save(tmp_path / "play.json")
        command = [sys.executable, "-c", REPLAY_ELSEWHERE, str(tiny_package), str(tmp_path / "play.json")]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert (result.stdout, result.stderr) == (f"{len(ACTIONS)}\n", "")


def test_replay_leaves_no_session_behind(tiny_world: World, recording: Recording) -> None:
    used = tiny_world._cache.used
    ticks = replay(tiny_world, recording)
    next(ticks)
    assert tiny_world._cache.used > used
    ticks.close()  # type: ignore[attr-defined]
    assert tiny_world._cache.used == used


@pytest.mark.parametrize("index", [0, 4, 7])
def test_the_first_other_frame_is_named(tiny_world: World, recording: Recording, index: int) -> None:
    decisions = list(recording.decisions)
    for later in range(index, len(decisions)):
        decisions[later] = dataclasses.replace(decisions[later], digest="0" * 32)
    with pytest.raises(RecordingError, match=f"tick {index}: drew another frame"):
        verify_replay(tiny_world, dataclasses.replace(recording, decisions=decisions))


def test_another_decision_draws_another_frame(tiny_world: World, recording: Recording) -> None:
    for changes in ({"action": (ACTIONS[2] + 1) % 4}, {"steps": recording.decisions[2].steps % 4 + 1}):
        decisions = list(recording.decisions)
        decisions[2] = dataclasses.replace(decisions[2], **changes)
        with pytest.raises(RecordingError, match="tick 2: "):
            verify_replay(tiny_world, dataclasses.replace(recording, decisions=decisions))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"world": "other"}, ("world", "'other' 0.0.1", "'tiny' 0.0.1")),
        ({"version": "2"}, ("world", "'tiny' 2")),
        ({"fingerprint": "0" * 32}, ("fingerprint", "another build", "0" * 32)),
        ({"snapshot": b"something"}, ("snapshot",)),
        ({"decisions": [Decision(0, 1, None, ""), Decision(9, 1, None, "")]}, ("decisions[1].action", "0..3")),
        ({"decisions": [Decision(0, 9, None, "")]}, ("decisions[0].steps", "1..4")),
    ],
)
def test_what_does_not_fit_the_world(
    tiny_world: World, recording: Recording, changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(RecordingError) as caught:
        list(replay(tiny_world, dataclasses.replace(recording, **changes)))
    for word in words:
        assert word in str(caught.value)


def test_a_foreign_recording_is_refused_at_once(tiny_world: World, recording: Recording) -> None:
    with pytest.raises(RecordingError):
        replay(tiny_world, dataclasses.replace(recording, fingerprint=""))  # nothing has been asked of it yet


@pytest.mark.parametrize("changes", [{"first_tick": 4}, {"seed": 6}])
def test_a_snapshot_from_elsewhere(tiny_world: World, resumed: Recording, changes: dict[str, Any]) -> None:
    with pytest.raises(RecordingError, match="snapshot: of seed 5 at tick 3"):
        list(replay(tiny_world, dataclasses.replace(resumed, **changes)))


Edit = Callable[[dict[str, Any]], object]


def first(**changes: Any) -> Edit:
    return lambda document: document["decisions"][0].update(changes)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda d: d.update(format="dsa-world"), (".format", "'dsa-recording'")),
        (lambda d: d.pop("format"), (".format", "None")),
        (lambda d: d.update(format_version=2), (".format_version", "version 1, got 2")),
        (lambda d: d.update(format_version=True), (".format_version",)),
        (lambda d: d.pop("seed"), (".seed", "missing")),
        (lambda d: d.update(seed=-1), (".seed", "0..2**64")),
        (lambda d: d.update(seed=1.5), (".seed", "an integer")),
        (lambda d: d.update(first_tick=3), (".first_tick", "snapshot")),
        (lambda d: d.update(snapshot=7), (".snapshot", "base64")),
        (lambda d: d.update(snapshot="ab!?"), (".snapshot", "base64")),
        (lambda d: d.update(snapshot="abc"), (".snapshot", "base64")),
        (lambda d: d.update(snapshot="ä"), (".snapshot", "base64")),
        (lambda d: d.update(novelty=1), (".novelty", "unknown")),
        (lambda d: d.update(decisions={}), (".decisions", "an array")),
        (lambda d: d["decisions"].append(3), (".decisions[8]", "an object")),
        (first(action="left"), (".decisions[0].action",)),
        (first(action=True), (".decisions[0].action",)),
        (first(action=0.5), (".decisions[0].action",)),
        (first(action=[]), (".decisions[0].action",)),
        (first(action=[[1]]), (".decisions[0].action",)),
        (first(action=[1, None]), (".decisions[0].action",)),
        (first(steps=0), (".decisions[0].steps", "at least 1")),
        (first(threshold="0.5"), (".decisions[0].threshold",)),
        (first(threshold=False), (".decisions[0].threshold",)),
        (first(digest="ABC"), (".decisions[0].digest",)),
    ],
)  # fmt: skip
def test_a_damaged_file(recording: Recording, tmp_path: Path, edit: Edit, words: tuple[str, ...]) -> None:
    path = tmp_path / "play.json"
    recording.save(path)
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
    with pytest.raises(RecordingError) as caught:
        Recording.load(path)
    assert str(caught.value).startswith(str(path))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b'{"seed": NaN}', b'{"a": 1, "a": 2}', b"[" * 10**5]
)
def test_a_file_that_is_no_json(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "play.json").write_bytes(content)
    with pytest.raises(RecordingError, match=r"play\.json"):
        Recording.load(tmp_path / "play.json")


def test_a_damaged_byte_anywhere(recording: Recording, tiny_world: World, tmp_path: Path) -> None:
    """A recording has no digest of its own: what comes through is another recording, or none."""
    path = tmp_path / "play.json"
    recording.save(path)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(content)
        damaged[int(rng.integers(len(damaged)))] = int(rng.integers(256))
        path.write_bytes(damaged)
        try:
            loaded = Recording.load(path)
            if loaded != recording:
                verify_replay(tiny_world, loaded)
        except RecordingError:
            continue


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Recording.load(tmp_path / "nowhere.json")
