"""The examples' two loops, at small size."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from tests.tiny_world import write_tiny_world

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return int(ended.value.code or 0)


def test_the_game_loop_shows_what_the_world_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world, film = write_tiny_world(tmp_path / "world"), tmp_path / "loop.gif"
    assert run("game_loop.py", ["--world", str(world), "--frames", "30", "--out", str(film)], monkeypatch) == 0
    assert film.read_bytes()[:4] == b"GIF8"
    assert capsys.readouterr().out.startswith("screen: 30 frames")


def test_the_control_loop_accounts_for_every_period(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = write_tiny_world(tmp_path / "world")
    assert run("control_loop.py", ["--world", str(world), "--hz", "100", "--periods", "20"], monkeypatch) == 0
    told = capsys.readouterr().out.splitlines()
    statuses = [line.split() for line in told if line.startswith(("ok", "late", "repeated", "skipped"))]
    assert len(statuses) == 4 and sum(int(count) for _, count in statuses) == 20
