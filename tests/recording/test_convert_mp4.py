"""Folders of videos with tables of actions."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")
pytest.importorskip("dacite")

from exporters.recording.__main__ import main
from exporters.recording.conversion.columns import ColumnChoice, text_actions
from exporters.recording.conversion.writer import plan
from exporters.recording.dataset import Dataset
from exporters.recording.episode import DatasetError
from tests.recording.films import moves, place_of, write_film, write_table

WORDS = {-1: "left", 0: "stay", 1: "right"}


@pytest.fixture
def films(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three videos of 30 frames with a table of words each."""
    monkeypatch.chdir(tmp_path)
    for index, name in enumerate("abc"):
        pictures, actions = moves(30, seed=index)
        write_film(tmp_path / "films" / f"{name}.mp4", pictures)
        write_table(tmp_path / "films" / f"{name}.csv", {"action": [WORDS[a] for a in actions], "reward": actions})
    return tmp_path / "films"


def convert(films: Path, *more: str) -> int:
    return main(["convert", "mp4", str(films), "--out", "data/films", *more])


def test_every_action_leads_from_its_frame_to_the_next(films: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(films) == 0
    assert "python -m exporters train configs/films.toml" in capsys.readouterr().out
    dataset = Dataset("data/films")
    dataset.check()
    assert dataset.spec.action_space == {"type": "Discrete", "n": 3, "names": ["left", "right", "stay"]}
    assert dataset.spec.frame["fps"] == 10.0
    assert {split: facts.episodes for split, facts in dataset.spec.splits.items()} == {
        "train": 1, "validation": 1, "test": 1
    }  # fmt: skip
    for split, seed in {"train": 0, "validation": 1, "test": 2}.items():
        (episode,) = dataset.episodes(split)
        way = moves(30, seed)[1][:-1]
        assert [dataset.spec.action_space["names"][a] for a in episode.actions] == [WORDS[a] for a in way]
        np.testing.assert_array_equal(episode.reward, way.astype(np.float32))
        moved = np.diff(place_of(episode.frames))
        far = np.abs(moved) > 0.03
        assert far.sum() > 5 and (np.sign(moved[far]) == way[far]).all()


def test_minutes_that_cannot_be_planned_are_refused(films: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(films, "--minutes", "-5") == 1
    assert "minutes: must be a positive number" in capsys.readouterr().err
    assert not (films.parent / "data").exists()


def test_a_single_film_is_thinned_out_and_cut_into_files(films: Path) -> None:
    for name in "bc":
        (films / f"{name}.mp4").unlink()
    pictures, way = moves(161, seed=9)
    write_film(films / "a.mp4", pictures)
    write_table(films / "a.csv", {"action": [WORDS[a] for a in way], "reward": way})
    assert convert(films, "--every", "2", "--size", "32x32", "--licence", "mine") == 0
    dataset = Dataset("data/films")
    dataset.check()
    assert dataset.spec.frame["fps"] == 5.0 and dataset.spec.licence == "mine"
    files = [episode for split in ("train", "validation", "test") for episode in dataset.episodes(split)]
    assert [episode.steps for episode in files] == [16] * 5
    frames = np.concatenate([files[0].frames, *(episode.frames[1:] for episode in files[1:])])
    np.testing.assert_allclose(place_of(frames), place_of(pictures[::2]), atol=0.02)
    names = dataset.spec.action_space["names"]
    assert [names[a] for episode in files for a in episode.actions] == [WORDS[a] for a in way[:160:2]]
    np.testing.assert_array_equal(np.concatenate([episode.reward for episode in files]), way[:160:2] + way[1:160:2])


def without(films: Path, name: str) -> None:
    (films / name).unlink()


def short_table(films: Path, name: str) -> None:
    lines = (films / name).read_text().splitlines(keepends=True)
    (films / name).write_text("".join(lines[:-1]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda films: short_table(films, "c.csv"), "c.mp4: 30 frames, but c.csv has 29 rows"),
        (lambda films: write_film(films / "b.mp4", moves(29, 1)[0]), "b.mp4: 29 frames, but b.csv has 30 rows"),
        (lambda films: without(films, "b.csv"), "b.mp4: its actions are missing, expected b.csv"),
        (lambda films: (films / "b.csv").write_text("1\n2\n3\n"), "the first line must name the columns"),
        (lambda films: (films / "b.csv").write_text("action\nstay\n,\n"), "line 3 has empty or missing cells"),
        (
            lambda films: write_table(films / "b.csv", {"button": [0] * 30}),
            "b.csv: columns button; those of the others",
        ),
        (lambda films: write_film(films / "b.mp4", moves(30, 1)[0], fps=12), "b.mp4: 12 frames a second, but a.mp4"),
        (
            lambda films: [write_film(films / f"{i}.mp4", moves(30, 1)[0], pause=20) for i in "abc"],
            r"a.mp4: frames come 0\.100 s apart, but after 1\.900 s the next is at 2\.100 s",
        ),
        (lambda films: (films / "b.mp4").write_bytes(b"nothing"), "b.mp4: not a readable video"),
        (lambda films: [path.unlink() for path in films.glob("*.mp4")], "no .mp4 files"),
        (
            lambda films: write_film(films / "b.mp4", moves(30, 1)[0][:, :, :48]),
            "b.mp4: picture 0 is 48x64, those before it are 64x64",
        ),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_left(
    films: Path, capsys: pytest.CaptureFixture[str], damage: object, message: str
) -> None:
    damage(films)  # type: ignore[operator]
    assert convert(films) == 1
    assert re.search(message, capsys.readouterr().err)
    assert sorted(path.name for path in films.parent.iterdir()) == ["films"] or not any(
        (films.parent / "data").iterdir()
    )
    assert not (films.parent / "configs").exists()


def table(*columns: list[object]) -> np.ndarray:
    return np.array(columns).T.astype(str)


def test_columns_say_which_space_they_are() -> None:
    def kind(cells: np.ndarray, **choice: object) -> dict[str, object]:
        names = [f"c{i}" for i in range(cells.shape[1])]
        return text_actions([cells, cells], names, ColumnChoice(**choice))[0]  # type: ignore[arg-type]

    assert kind(table([0, 2, 1])) == {"type": "Discrete", "n": 3, "names": ["action 0", "action 1", "action 2"]}
    assert kind(table([0, 1], [1, 0])) == {"type": "MultiBinary", "n": 2, "names": ["c0", "c1"]}
    assert kind(table([0, 0.5], [-1, 3])) == {
        "type": "Box", "low": [0.0, -1.0], "high": [0.5, 3.0], "names": ["c0", "c1"], "units": ["", ""]
    }  # fmt: skip
    assert kind(table([0, 1], [1, 0]), space="box", low=-1.0)["low"] == [-1.0, -1.0]
    for cells, choice, message in (
        (table([1, 1], [0.5, 2]), {}, "'c0' is always 1; leave it out"),
        (table(["go", "3"], [1, 2]), {}, "'go' is not a number"),
        (table([0.5, 1]), {"space": "discrete"}, "whole numbers"),
        (table([0, 2], [1, 1]), {"space": "multibinary"}, "only 0 and 1"),
        (table([0, 65536]), {}, "65537 different ones are more than the 65536"),
    ):
        with pytest.raises(DatasetError, match=message):
            kind(cells, **choice)


def test_held_out_files_come_from_recordings_of_their_own() -> None:
    pieces = plan([100] * 30 + [7], 40)
    split_of = {piece.source: piece.split for piece in pieces}
    assert all(piece.split == split_of[piece.source] for piece in pieces)
    assert sorted(split_of.values()).count("validation") == sorted(split_of.values()).count("test") == 2
    assert [(p.first, p.last) for p in pieces if p.source == 7] == [(0, 33), (33, 67), (67, 100)]
    assert 30 not in split_of  # too short for a start context
    single = plan([1000], 500)
    assert [piece.split for piece in single[-2:]] == ["validation", "test"] and single[-1].last == 1000
    with pytest.raises(DatasetError, match="cannot fill three splits"):
        plan([16], 500)
