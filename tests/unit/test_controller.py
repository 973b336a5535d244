"""Controller: pure arithmetic, tested with made-up confidences and costs."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dsa_runtime import BudgetError, Controller
from dsa_runtime.controller import ControllerState

START = ControllerState()


def steps_taken(controller: Controller, state: ControllerState, confidences: list[float]) -> int:
    """Steps of one tick without a deadline; confidence and score are the same here."""
    plan = controller.plan(state, default_threshold=0.8, schedule_steps=len(confidences))
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
        state = controller.observe(state, scores[steps - 1])
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
        ("guard_ms", -1.0), ("guard_ms", math.nan), ("guard_ms", math.inf),
    ],
)  # fmt: skip
def test_bad_configuration_names_the_field(field: str, value: Any) -> None:
    with pytest.raises(BudgetError, match=rf"^{field}: "):
        Controller(**{field: value})


def test_contradicting_limits() -> None:
    with pytest.raises(BudgetError, match=r"^max_steps: "):
        Controller(min_steps=3, max_steps=2)
