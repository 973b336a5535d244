"""`dsa replay`, on the tiny world."""

from __future__ import annotations

import dataclasses
import json
import math
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from dsa_runtime import World
from dsa_runtime.recording import Recording
from tests import command_line
from tests.command_line import Run, run_dsa

ACTIONS = [0, 1, 3, 2, 2, 0]


@pytest.fixture
def dsa(capsys: pytest.CaptureFixture[str], tiny_package: Path) -> Run:
    """Run `dsa replay` on the tiny world with these arguments: exit status, stdout, stderr."""

    def run(*arguments: object, world: Path | None = tiny_package) -> tuple[int, str, str]:
        where = [] if world is None else ["--world", world]
        return run_dsa(capsys, "replay", *arguments, *where, "--threads", 1)

    return run


@pytest.fixture
def recording(tiny_world: World) -> Recording:
    with tiny_world.session(5, record=True) as session:
        for action in ACTIONS:
            session.step(action, math.inf)
        assert session.recording is not None
        return session.recording


@pytest.fixture
def file(recording: Recording, tmp_path: Path) -> Path:
    recording.save(tmp_path / "play.json")
    return tmp_path / "play.json"


fails = partial(command_line.fails, prefix="dsa replay: ")


def test_it_sums_up_what_it_drew(dsa: Run, file: Path, recording: Recording) -> None:
    status, out, err = dsa(file, "--json")
    assert (status, err) == (0, "")
    document = json.loads(out)
    assert document["world"] == {"name": "tiny", "version": "0.0.1"}
    assert (document["seed"], document["first_tick"], document["ticks"]) == (5, 0, len(ACTIONS))
    assert document["steps"]["total"] == sum(decision.steps for decision in recording.decisions)
    assert document["steps"]["mean"] == pytest.approx(document["steps"]["total"] / len(ACTIONS))
    assert document["ticks_per_s"] == pytest.approx(len(ACTIONS) / document["wall_s"])
    assert (document["verified"], document["film"]) == (None, None)
    status, text, _ = dsa(file)
    assert status == 0
    assert "tiny 0.0.1, seed 5" in text and "6 ticks" in text and "bit for bit" not in text


def test_it_verifies_every_frame(dsa: Run, file: Path) -> None:
    status, out, _ = dsa(file, "--verify")
    assert status == 0
    assert "bit for bit: 6 of 6" in out
    assert json.loads(dsa(file, "--verify", "--json")[1])["verified"] == 6


def test_it_fails_at_the_first_other_frame(dsa: Run, file: Path, recording: Recording) -> None:
    recording.decisions[3] = dataclasses.replace(recording.decisions[3], digest="0" * 32)
    recording.save(file)
    fails(dsa(file, "--verify"), "tick 3", "0" * 32, "onnxruntime")
    status, out, err = dsa(file, "--verify", "--json")
    assert status == 2
    assert json.loads(out)["ok"] is False
    assert json.loads(out)["error"] in err
    assert dsa(file)[0] == 0  # not asked, not compared


def test_it_makes_a_film(dsa: Run, file: Path, tmp_path: Path) -> None:
    assert dsa(file, "--film", tmp_path / "play.gif")[0] == 0
    with Image.open(tmp_path / "play.gif") as film:
        assert film.n_frames == len(ACTIONS)  # type: ignore[attr-defined]


def test_a_film_of_a_world_whose_actions_are_lists(dsa: Run, tmp_path: Path) -> None:
    from dsa_runtime import MultiBinary, load_world
    from tests.tiny_world import write_tiny_world

    folder = write_tiny_world(tmp_path / "world", MultiBinary(2, ("left", "fire")))
    with load_world(folder, threads=1) as world, world.session(record=True) as session:
        session.step([1, 0], math.inf)
        assert session.recording is not None
        session.recording.save(tmp_path / "play.json")
    assert dsa(tmp_path / "play.json", "--film", tmp_path / "play.gif", world=folder)[0] == 0
    assert (tmp_path / "play.gif").stat().st_size > 0


def test_a_recording_of_another_build(dsa: Run, file: Path, recording: Recording) -> None:
    dataclasses.replace(recording, fingerprint="0" * 32).save(file)
    fails(dsa(file), "fingerprint", "another build")


def test_a_file_does_not_choose_the_package(dsa: Run, file: Path, recording: Recording, tiny_package: Path) -> None:
    dataclasses.replace(recording, world=str(tiny_package)).save(file)
    fails(dsa(file, world=None), "not a bundled world", "--world")


def test_a_recording_without_ticks(dsa: Run, file: Path, recording: Recording) -> None:
    dataclasses.replace(recording, decisions=[]).save(file)
    fails(dsa(file), "decisions", "record=True")


def test_a_damaged_file(dsa: Run, file: Path) -> None:
    file.write_text(file.read_text()[:-30])
    fails(dsa(file), str(file), "JSON")


def test_a_missing_file(dsa: Run, tmp_path: Path) -> None:
    fails(dsa(tmp_path / "nowhere.json"), "nowhere.json")
