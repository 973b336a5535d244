"""What a training says about the time that is left."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from exporters.training.progress import RunProgress, StageBar  # noqa: E402
from exporters.training.stage import Budget, Stage  # noqa: E402

PLAN = RunProgress(
    {
        "autoencoder": Budget(minutes=5),
        "teacher": Budget(minutes=10),
        "confidence": Budget(steps=800),
        "calibration": None,
    }
)


def test_the_run_adds_what_is_known_and_names_what_is_not() -> None:
    assert PLAN.left("autoencoder", 120.0) == "run 12 min, then confidence and calibration"
    assert PLAN.left("confidence", 90.0) == "run 2 min, then calibration"
    assert PLAN.left("confidence", None) == ""
    assert PLAN.left("another", 60.0) == ""
    assert PLAN.place("teacher") == " (2 of 4)"


def test_the_speed_of_steps_is_that_of_this_process() -> None:
    """Before the first step of a resumed stage nothing is known of it."""
    bar = StageBar(PLAN, "confidence", Budget(steps=100), 40, 1000.0, visible=False)
    assert bar._left_s(40, 1000.0) is None
    assert bar._left_s(50, 1020.0) == 100.0
    bar.close()


@pytest.mark.parametrize(("budget", "shown"), [(Budget(steps=3), "100% "), (Budget(minutes=1e-6), "100% ")])
def test_a_stage_shows_what_is_left_of_it_and_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], budget: Budget, shown: str
) -> None:
    stage = Stage("autoencoder", tmp_path, budget, {})
    with PLAN.shown():
        for _ in stage.steps():
            pass
    said = capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]
    assert said.startswith("autoencoder ") and shown in said
    assert f"left, step {stage.step}, run 10 min, then confidence and calibration" in said
    assert RunProgress.current().left("teacher", 60.0) == ""
