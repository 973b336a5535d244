"""What a recording keeps of how its ticks fared: saved and loaded without loss, refused where it makes no sense."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsa_runtime import Controller, EngineError, Recording, World
from dsa_runtime.errors import RecordingError
from dsa_runtime.recording import Played
from dsa_runtime.replay import verify_replay
from tests.export.conftest import play
from tests.stages import Gate, patch_stage

Edit = Callable[[dict[str, Any]], object]
ALL_STEPS = Controller(threshold=1.0)


@pytest.mark.parametrize("batched", [False, True], ids=["alone", "batched"])
def test_a_session_says_how_its_ticks_fared(tiny_world: World, tmp_path: Path, batched: bool) -> None:
    with tiny_world.session(5, record=True, history=4, batched=batched) as session:
        ticks = [session.step(action, budget_ms) for action, budget_ms in ((0, 1000.0), (1, math.inf), (3, 1e-3))]
        recording = session.recording
        assert recording is not None
        assert [decision.played for decision in recording.decisions] == [Played.of(tick) for tick in ticks]
        with session.fork()[0] as branch:
            ticks.append(branch.step(2, math.inf))
            assert branch.recording is not None
            assert [decision.played for decision in branch.recording.decisions] == [Played.of(tick) for tick in ticks]
        session.rewind(1)
        ticks[2:] = [session.step(2, math.inf)]
    assert [decision.played for decision in recording.decisions] == [Played.of(tick) for tick in ticks]
    assert verify_replay(tiny_world, recording) == 3


def test_a_tick_that_fails_leaves_the_recording_as_it_was(tiny_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise EngineError("decode: broken")

    with tiny_world.session(5, record=True) as session:
        played = Played.of(session.step(0, math.inf))
        patch_stage(monkeypatch, "decode", broken)
        with pytest.raises(EngineError, match="broken"):
            session.step(1, math.inf)
        assert session.recording is not None
        assert [decision.played for decision in session.recording.decisions] == [played]


def test_a_repeated_tick_says_what_came_of_it(tiny_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with tiny_world.session(7, controller=ALL_STEPS, on_miss="repeat", record=True) as session:
        session.step(0, math.inf)
        with monkeypatch.context() as patch:
            gate = Gate(patch, "denoise")
            assert [session.step(action, 50.0).status for action in (1, 3)] == ["repeated", "skipped"]
            gate.open.set()
            after = session.step(2, math.inf)
        assert session.recording is not None
        decisions = session.recording.decisions
        assert [decision.action for decision in decisions] == [0, 1, 2]
        repeated = decisions[1].played
        assert repeated is not None and decisions[2].played == Played.of(after)
        assert (repeated.status, repeated.budget_ms, len(repeated.denoise_ms)) == ("repeated", 50.0, decisions[1].steps)
        assert repeated.total_ms > 50 and repeated.confidence > 0
        spent = [repeated.wait_ms, *repeated.denoise_ms, repeated.abandoned_ms, repeated.decode_ms, repeated.sdk_ms]
        assert repeated.total_ms == pytest.approx(sum(spent))
        assert verify_replay(tiny_world, session.recording) == 3


def test_a_file_brings_it_back(tiny_world: World, recording: Recording, bare: Recording, tmp_path: Path) -> None:
    unlimited = play(tiny_world, [0, 1])
    for before in (recording, bare, unlimited):
        before.save(tmp_path / "play.dsarec")
        assert Recording.load(tmp_path / "play.dsarec") == before
    assert [decision.played and decision.played.budget_ms for decision in unlimited.decisions] == [math.inf] * 2
    assert verify_replay(tiny_world, recording) == len(recording.decisions)


def test_a_file_of_somebody_else_that_writes_is_left_alone(recording: Recording, tmp_path: Path) -> None:
    (tmp_path / "a.dsarec.partial").write_text("not whole yet")
    recording.save(tmp_path / "a.dsarec")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.dsarec", "a.dsarec.partial"]
    assert (tmp_path / "a.dsarec.partial").read_text() == "not whole yet"


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda played: played.update(status="fine"), ("decisions[2].played.status", "ok, late")),
        (lambda played: played.update(stopped_by=""), ("decisions[2].played.stopped_by", "confidence")),
        (lambda played: played.update(total_ms="1"), ("decisions[2].played.total_ms", "a number")),
        (lambda played: played.pop("decode_ms"), ("decisions[2].played.decode_ms", "missing")),
        (lambda played: played["denoise_ms"].pop(), ("decisions[2].played.denoise_ms", "3", "2")),
        (lambda played: played.update(mood=1), ("decisions[2].played.mood", "unknown")),
    ],
)
def test_a_damaged_file(recording: Recording, tmp_path: Path, edit: Edit, words: tuple[str, ...]) -> None:
    file = tmp_path / "play.dsarec"
    recording.save(file)
    document = json.loads(file.read_text())
    edit(document["decisions"][2]["played"])
    file.write_text(json.dumps(document))
    with pytest.raises(RecordingError) as caught:
        Recording.load(file)
    for word in words:
        assert word in str(caught.value)
