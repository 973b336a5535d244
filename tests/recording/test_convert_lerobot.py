"""LeRobot datasets of versions 2 and 3."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")
pytest.importorskip("pyarrow")
pytest.importorskip("dacite")

from exporters.recording.__main__ import main
from exporters.recording.dataset import Dataset
from tests.recording.films import moves, place_of, write_film, write_lerobot

LENGTHS = (25, 30, 28)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path / "cache"))
    return tmp_path


def convert(source: str, *more: str) -> int:
    return main(["convert", "lerobot", source, "--out", "data/arm", *more])


@pytest.mark.parametrize(("version", "kind"), [(2, "video"), (2, "image"), (3, "video"), (3, "image")])
def test_episodes_come_with_their_own_pictures_and_actions(folder: Path, version: int, kind: str) -> None:
    write_lerobot(folder / "cache/me/arm", version, LENGTHS, kind)
    assert convert("me/arm") == 0  # an id, from LeRobot's cache
    dataset = Dataset("data/arm")
    dataset.check()
    assert dataset.spec.licence == "apache-2.0"
    assert dataset.spec.frame["fps"] == 10.0
    assert dataset.spec.action_space["names"] == ["slide.pos", "turn.pos"]
    np.testing.assert_allclose(dataset.spec.action_space["low"], [-1.0, -0.25])
    for split, seed in {"train": 0, "validation": 1, "test": 2}.items():
        (episode,) = dataset.episodes(split)
        pictures, way = moves(LENGTHS[seed], seed)
        np.testing.assert_allclose(place_of(episode.frames), place_of(pictures), atol=0.01)
        np.testing.assert_array_equal(episode.actions[:, 0], way[:-1])
        np.testing.assert_array_equal(episode.reward, np.arange(len(way) - 1, dtype=np.float32))


def change_info(folder: Path, **changes: object) -> None:
    path = folder / "meta/info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "options", "message"),
    [
        (lambda arm: (arm / "meta/info.json").unlink(), [], "hf download"),
        (lambda arm: change_info(arm, codebase_version="v1.6"), [], "version 1.6 is not known"),
        (lambda arm: change_info(arm, features={}), [], "not the description of a LeRobot dataset"),
        (lambda arm: None, ["--camera", "wrist"], "camera: .* has no 'wrist'; it has observation.images.top"),
        (lambda arm: None, ["--columns", "gripper"], "no 'gripper'; it has slide.pos, turn.pos"),
        (lambda arm: next(arm.glob("data/*/*")).unlink(), [], "data/chunk-000/episode_.*cannot be read"),
        (lambda arm: next(arm.glob("videos/*/*/*1.mp4")).unlink(), [], "episode_000001.mp4: not a readable video"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_and_nothing_is_left(
    folder: Path, capsys: pytest.CaptureFixture[str], damage: object, options: list[str], message: str
) -> None:
    write_lerobot(folder / "arm", 2, LENGTHS)
    damage(folder / "arm")  # type: ignore[operator]
    assert convert("arm", *options) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (folder / "data").exists() or not any((folder / "data").iterdir())


def test_a_video_with_too_few_frames_is_noticed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_lerobot(folder / "arm", 3, LENGTHS)
    write_film(next((folder / "arm").glob("videos/*/*/*.mp4")), moves(70, 0)[0])
    assert convert("arm") == 1
    assert "episode 2 has 28 rows, but only 15 frames" in capsys.readouterr().err
