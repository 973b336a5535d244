"""What a recording keeps of how its ticks fared: saved and loaded without loss, refused where it makes no sense."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsa_runtime import Recording, World
from dsa_runtime.errors import RecordingError
from dsa_runtime.replay import verify_replay
from tests.export.conftest import play

Edit = Callable[[dict[str, Any]], object]


def test_a_file_brings_it_back(tiny_world: World, recording: Recording, bare: Recording, tmp_path: Path) -> None:
    unlimited = play(tiny_world, [0, 1])
    for before in (recording, bare, unlimited):
        before.save(tmp_path / "play.dsarec")
        assert Recording.load(tmp_path / "play.dsarec") == before
    assert [decision.played and decision.played.budget_ms for decision in unlimited.decisions] == [math.inf] * 2
    assert verify_replay(tiny_world, recording) == len(recording.decisions)


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
