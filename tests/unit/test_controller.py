"""Controller: pure arithmetic, tested with made-up confidences and costs."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dsa_runtime import BudgetError, Controller
from dsa_runtime.controller import ControllerState, Outcome
from dsa_runtime.spec import CalibrationSpec, Curve, OperatingPoint

START = ControllerState()
CURVES = (Curve((0.0,), (0.5,)),) * 3
TABLE = ((0.2, 1.4), (0.6, 2.0), (0.8, 3.0))


def calibration(*table: tuple[float, float]) -> CalibrationSpec:
    """Default threshold 0.8, and operating points (threshold, mean steps)."""
    return CalibrationSpec(1.0, "px", 0.8, CURVES, CURVES, tuple(OperatingPoint(*point) for point in table))


def finished(score: float = 0.5, steps: int = 1, **what: Any) -> Outcome:
    usual = {"stopped_by": "confidence", "total_ms": 10.0, "budget_ms": 20.0, "step_ms": 4.0}
    return Outcome(score, steps, **{**usual, **what})


def steps_taken(controller: Controller, state: ControllerState, confidences: list[float]) -> int:
    """Steps of one tick without a deadline; confidence and score are the same here."""
    plan = controller.plan(state, calibration(*TABLE), len(confidences))
    step = 1
    while step < plan.max_steps and controller.wants_more(plan, step, confidences[step - 1], confidences[step - 1]):
        step += 1
    return step


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, 3),
        ({"threshold": 0.5}, 2),
        ({"threshold": 0.0}, 1),
        ({"threshold": 1.0}, 4),
        ({"threshold": 0.0, "min_steps": 2}, 2),
        ({"threshold": 1.0, "max_steps": 2}, 2),
        ({"max_steps": 99}, 3),
        ({"policy": "fixed"}, 4),
        ({"policy": "fixed", "max_steps": 2}, 2),
    ],
)
def test_steps_by_policy(options: dict[str, Any], steps: int) -> None:
    assert steps_taken(Controller(**options), START, [0.3, 0.6, 0.8, 1.0]) == steps


def test_confidence_equal_to_the_threshold_is_enough() -> None:
    assert steps_taken(Controller(threshold=0.6), START, [0.6, 0.7, 0.8]) == 1


def test_paper_policy_is_all_or_nothing_against_the_previous_frame() -> None:
    """Algorithm 1: refine fully if and only if the first confidence is below the previous frame's last."""
    controller, state = Controller(policy="paper"), START
    taken = []
    for scores in (
        [0.9, 0.91, 0.92, 0.95],
        [0.96, 0, 0, 0],
        [0.96, 0, 0, 0],
        [0.5, 0.6, 0.7, 0.7],
        [0.6, 0.9, 0.9, 0.8],
    ):
        steps = steps_taken(controller, state, list(scores))
        taken.append(steps)
        plan = controller.plan(state, calibration(), len(scores))
        state = controller.observe(plan, finished(scores[steps - 1], steps))
    # The first frame is always refined (previous = 1); equal is not lower; refined frames raise the bar.
    assert taken == [4, 1, 1, 4, 4]


def test_admission_counts_step_decode_and_guard() -> None:
    controller = Controller(guard_ms=1.0)
    assert controller.admits(elapsed_ms=10.0, budget_ms=20.0, step_ms=6.0, decode_ms=3.0)
    assert not controller.admits(elapsed_ms=10.0, budget_ms=19.99, step_ms=6.0, decode_ms=3.0)
    assert controller.admits(elapsed_ms=1e9, budget_ms=math.inf, step_ms=6.0, decode_ms=3.0)
    assert not controller.admits(elapsed_ms=19.5, budget_ms=20.0, step_ms=None, decode_ms=None)
    assert controller.admits(elapsed_ms=1.0, budget_ms=20.0, step_ms=None, decode_ms=None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("policy", "greedy"), ("threshold", -0.1), ("threshold", 1.1), ("threshold", math.nan),
        ("min_steps", 0), ("min_steps", 1.5), ("max_steps", 0), ("max_steps", True),
        ("quantile", 0.0), ("quantile", 1.01), ("quantile", math.nan),
        ("guard_ms", -1.0), ("guard_ms", math.nan), ("guard_ms", math.inf), ("guard_ms", None),
        ("credit_ms", -1.0), ("credit_ms", math.nan), ("credit_ms", math.inf), ("credit_ms", True),
        ("target_steps", 0.9), ("target_steps", math.nan), ("target_steps", math.inf), ("target_steps", "2"),
        ("target_load", 0.0), ("target_load", 1.01), ("target_load", math.nan), ("target_load", -math.inf),
        ("settle_ticks", 3), ("settle_ticks", 10.0), ("threshold", "0.5"), ("quantile", "0.9"),
    ],
)  # fmt: skip
def test_bad_configuration_names_the_field(field: str, value: Any) -> None:
    with pytest.raises(BudgetError, match=rf"^{field}: "):
        Controller(**{field: value})


def test_contradicting_limits() -> None:
    with pytest.raises(BudgetError, match=r"^max_steps: "):
        Controller(min_steps=3, max_steps=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_steps": 2.0, "target_load": 0.5}, r"^target_load: .* target_steps"),
        ({"target_steps": 2.0, "threshold": 0.5}, r"^target_steps: .* leave out threshold"),
        ({"target_load": 0.5, "policy": "paper"}, r"^target_load: .* 'gain'"),
        ({"target_steps": 2.0, "policy": "fixed"}, r"^target_steps: .* 'gain'"),
        ({"target_steps": 1.5, "min_steps": 2}, r"^target_steps: .* 2\.\."),
        ({"target_steps": 2.5, "max_steps": 2}, r"^target_steps: .* 1\.\.2"),
    ],
)
def test_contradicting_targets(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        Controller(**options)


def test_a_target_beyond_the_worlds_schedule() -> None:
    with pytest.raises(BudgetError, match=r"^target_steps: this world has 3 steps"):
        Controller(target_steps=3.5).plan(START, calibration(*TABLE), 3)


@pytest.mark.parametrize(
    ("target", "threshold"),
    [
        (1.0, 0.0), (1.2, 0.1), (1.4, 0.2), (1.7, 0.4), (2.0, 0.6), (2.5, 0.7),
        (3.5, 0.9), (4.0, 1.0),  # beyond the table: towards threshold 1 at all four steps
    ],
)  # fmt: skip
def test_a_target_starts_from_the_calibration_table(target: float, threshold: float) -> None:
    plan = Controller(target_steps=target).plan(START, calibration(*TABLE), 4)
    assert (plan.threshold, plan.demand) == (pytest.approx(threshold), target)


@pytest.mark.parametrize(("table", "threshold"), [((), 1 / 3), (((0.5, 2.0),), 0.5), (((0.0, 1.0), (1.0, 4.0)), 1 / 3)])
def test_the_ends_of_the_table_may_be_missing(table: tuple[tuple[float, float], ...], threshold: float) -> None:
    assert Controller(target_steps=2.0).plan(START, calibration(*table), 4).threshold == pytest.approx(threshold)


def test_a_load_starts_from_the_default_threshold() -> None:
    """Nothing is known about costs yet, so the first frame is as it would be without the target."""
    plan = Controller(target_load=0.5).plan(START, calibration(*TABLE), 4)
    assert (plan.threshold, plan.demand) == (pytest.approx(0.8), pytest.approx(3.0))


def test_floor_and_ceiling_squeeze_the_table() -> None:
    """The table speaks of 1..4 steps; of 2..3 that are left, the middle is where it says 2.5."""
    plan = Controller(target_steps=2.5, min_steps=2, max_steps=3).plan(START, calibration(*TABLE), 4)
    assert plan.threshold == pytest.approx(0.7)
    for controller in (Controller(target_load=0.5, max_steps=1), Controller(target_load=0.5, min_steps=9)):
        assert controller.plan(START, calibration(*TABLE), 4).demand in (1, 4)
    assert Controller(target_steps=1).plan(START, calibration(), 1).threshold == 0.0  # a world of one step


def test_demand_moves_by_the_error_over_settle_ticks() -> None:
    steps = Controller(target_steps=2.0, settle_ticks=10)
    plan = steps.plan(ControllerState(demand=2.2), calibration(*TABLE), 4)
    assert steps.observe(plan, finished(steps=1)).demand == pytest.approx(2.3)
    assert steps.observe(plan, finished(steps=4)).demand == pytest.approx(2.0)
    assert steps.observe(plan, finished(steps=4, stopped_by="budget")).demand == pytest.approx(2.0)
    for stopped_by in ("budget", "deadline"):
        # One step short and cut: taken for half of the three steps that were left. Never a reason to ask for more.
        assert steps.observe(plan, finished(steps=1, stopped_by=stopped_by)).demand == pytest.approx(2.1)
    load = Controller(target_load=0.8, settle_ticks=10)
    plan = load.plan(ControllerState(demand=2.2), calibration(*TABLE), 4)
    assert load.observe(plan, finished()).demand == pytest.approx(2.35)  # 6 ms short at 4 ms a step
    assert load.observe(plan, finished(total_ms=60_000.0)).demand == pytest.approx(1.9)
    assert load.observe(plan, finished(step_ms=0.0)).demand == 2.2
    assert load.observe(plan, finished(budget_ms=math.inf)).demand == 2.2


def test_the_state_of_a_controller_without_a_target_stays_empty() -> None:
    for controller in (Controller(), Controller(policy="fixed"), Controller(policy="paper")):
        plan = controller.plan(START, calibration(*TABLE), 4)
        assert controller.observe(plan, finished(0.7)) == ControllerState(previous_score=0.7)
