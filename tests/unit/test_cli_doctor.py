"""`dsa doctor`, on the tiny world and with made-up verdicts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dsa_runtime.commands import doctor
from dsa_runtime.doctor import Diagnosis
from dsa_runtime.doctor.verdicts import TickCost, judge
from tests.command_line import run_dsa

SHORT = ("--ticks", "4", "--no-load")


@pytest.fixture(autouse=True)
def few_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_WAITS", 2)


def dsa(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run `dsa doctor` with these arguments: exit status, stdout, stderr."""
    return run_dsa(capsys, "doctor", *arguments)


def test_the_text_has_stages_rates_and_advice(capsys: pytest.CaptureFixture[str], tiny_package: Path) -> None:
    status, out, _ = dsa(capsys, tiny_package, "--ticks", 4)
    assert status == 0
    for word in (
        "tiny",
        "4 full ticks idle, 4 beside",
        "denoise 4",
        "commit",
        "timed wait late",
        "beside load: 1 step",
    ):
        assert word in out
    assert "Hz holds at" in out or "does not hold" in out
    assert "--ticks 2995 would show 99.9 %" in out
    assert "--out FILE" in out


def test_without_load_the_text_does_not_mention_it(capsys: pytest.CaptureFixture[str], tiny_package: Path) -> None:
    status, out, _ = dsa(capsys, tiny_package, *SHORT)
    assert status == 0
    assert "beside" not in out


def test_json_and_the_file_are_the_diagnosis(
    capsys: pytest.CaptureFixture[str], tiny_package: Path, tmp_path: Path
) -> None:
    file = tmp_path / "found.json"
    status, out, _ = dsa(capsys, tiny_package, *SHORT, "--json", "--out", file)
    assert status == 0
    document: dict[str, Any] = json.loads(out)
    assert Diagnosis.from_json(out) == Diagnosis.load(file)
    assert document["world"]["name"] == "tiny"
    assert document["machine"]["onnxruntime"]
    assert document["verdicts"][0]["fits"][0]["steps"] == 1


def test_the_text_says_how_to_use_the_file(
    capsys: pytest.CaptureFixture[str], tiny_package: Path, tmp_path: Path
) -> None:
    _, out, _ = dsa(capsys, tiny_package, *SHORT, "--out", tmp_path / "found.json")
    assert f"Diagnosis.load({str(tmp_path / 'found.json')!r})" in out


def test_a_file_that_cannot_be_written_is_refused_before_measuring(
    capsys: pytest.CaptureFixture[str], tiny_package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsa_runtime.doctor.examine", lambda *_, **__: pytest.fail("measured"))
    status, out, err = dsa(capsys, tiny_package, "--out", tmp_path / "nowhere" / "found.json")
    assert (status, out) == (2, "")
    assert "nowhere" in err and err.count("\n") == 1


def test_a_failed_run_leaves_no_empty_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, _, err = dsa(capsys, tmp_path / "no-world", "--out", tmp_path / "found.json")
    assert status == 2 and "no-world" in err
    assert not (tmp_path / "found.json").exists()


def test_ticks_must_be_positive(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = dsa(capsys, "--ticks", 0)
    assert status == 2 and "--ticks" in err


# Sentences

FAST = TickCost((4.0, 4.0), 2.0, 1.0, 3.0)  # 10 or 14 ms
SLOW = TickCost((4.0, 4.0), 12.0, 1.0, 3.0)  # 20 or 24 ms
STUCK = TickCost((400.0, 4.0), 2.0, 1.0, 3.0)


def sentence(rate: float, idle: list[TickCost], loaded: list[TickCost] | None = None) -> str:
    return doctor._sentence(judge(idle, rate, 1.0, False), judge(loaded, rate, 1.0, True) if loaded else None)


def test_what_holds_is_said_with_what_was_seen() -> None:
    said = "30 Hz holds at 2 steps: 1000 of 1000 ticks idle (at least 99.70 % with 95 % confidence)"
    assert sentence(30, [FAST] * 1000) == said
    assert sentence(30, [FAST] * 1000, [FAST] * 10) == f"{said}, 10 of 10 beside load"
    assert sentence(30, [FAST] * 1000, [FAST] * 249 + [STUCK]) == (
        f"{said}, 249 of 250 beside load (99.60 %), where it does not hold"
    )
    assert sentence(1000 / 22, [FAST] * 10, [SLOW] * 10).endswith(
        "0 of 10 beside load (0.0 %), where it holds at 1 step"
    )


def test_what_does_not_hold_is_said_too() -> None:
    assert sentence(60, [SLOW] * 3 + [FAST]) == "60 Hz does not hold: a single step fits in 1 of 4 ticks idle"


def test_sentences_keep_the_fastest_rate_of_a_kind_and_the_slowest_that_fails() -> None:
    idle = [judge([FAST], rate, 1.0, False) for rate in (20, 30, 60, 80, 120, 240)]
    assert [line.split(":")[0] for line in doctor._sentences(idle, [])] == [
        "60 Hz holds at 2 steps", "80 Hz holds at 1 step", "120 Hz does not hold",
    ]  # fmt: skip


def test_a_share_is_never_rounded_up_to_all() -> None:
    assert doctor._percent(100_000, 100_000) == "100"
    assert doctor._percent(99_999, 100_000) == "99.99"
    assert doctor._percent(998, 1000) == "99.80"
    assert doctor._percent(5, 9) == "55.5"
