"""`python -m exporters`: what a user who mistypes is told."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("dacite")
pytest.importorskip("sklearn")
pytest.importorskip("onnxscript")

from exporters.__main__ import main

RECIPE = Path(__file__).parents[2] / "exporters" / "configs" / "defend_the_line.toml"


def test_a_missing_recipe_is_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(tmp_path / "none.toml")]) == 2
    error = capsys.readouterr().err
    assert "none.toml" in error and error.count("\n") == 1


def test_an_unfinished_run_cannot_be_packaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["package", str(RECIPE), str(tmp_path / "world"), "--runs", str(tmp_path)]) == 2
    assert "has not finished" in capsys.readouterr().err
    assert not (tmp_path / "world").exists()


def test_an_unknown_stage_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(RECIPE), "--runs", str(tmp_path), "--until", "cooking"]) == 2
    assert "cooking" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_schedule_must_fall_from_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text('name = "x"\ndataset = "d"\n[schedule]\nlevels = [1.0, 0.5, 0.75]\n')
    assert main(["train", str(recipe)]) == 2
    assert "schedule.levels" in capsys.readouterr().err
