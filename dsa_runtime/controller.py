"""Controller: how many denoising steps a frame gets. Pure arithmetic: it reads no clock and keeps no state.

A controller is configuration, shared freely between sessions. What changes from tick to tick is a
`ControllerState`, a small value that the session owns, replaces after a finished tick and can put into a
snapshot.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from .errors import BudgetError

Policy = Literal["gain", "fixed", "paper"]
POLICIES = ("gain", "fixed", "paper")


@dataclass(frozen=True)
class ControllerState:
    """What one tick hands to the next."""

    previous_score: float = 1.0
    """Uncalibrated confidence of the previous frame; 1 before the first frame (Algorithm 1 of the paper)."""


@dataclass(frozen=True)
class Plan:
    """The rule for one tick, fixed before its first denoising step."""

    threshold: float | None
    max_steps: int


@dataclass(frozen=True)
class Controller:
    """Decides after every denoising step whether the frame gets another one.

    Two questions, in this order: does the frame *want* another step (`wants_more`, by policy), and does the
    step *fit* before the deadline (`admits`, whatever the policy)?

    policy `gain`   stop as soon as the calibrated confidence reaches the threshold
           `fixed`  always `max_steps`
           `paper`  Algorithm 1 of the DSA paper: one step; if its uncalibrated confidence is lower than that
                    of the previous frame, run all the others
    """

    policy: Policy = "gain"
    threshold: float | None = None
    """For `gain`: a confidence in [0, 1]; None for the world's own default."""
    min_steps: int = 1
    """For `gain`: steps taken whatever the confidence, if the budget allows."""
    max_steps: int | None = None
    """Ceiling of steps; None for the length of the world's schedule."""
    quantile: float = 0.99
    """A step is admitted at the cost that this share of recent steps stayed within."""
    guard_ms: float = 1.0
    """Time kept free before the deadline for what is not measured."""

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise BudgetError(f"policy: expected one of {', '.join(POLICIES)}, got {self.policy!r}")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise BudgetError(f"threshold: must lie in [0, 1], got {self.threshold}")
        _check_steps("min_steps", self.min_steps)
        if self.max_steps is not None:
            _check_steps("max_steps", self.max_steps)
            if self.max_steps < self.min_steps:
                raise BudgetError(f"max_steps: must not be below min_steps = {self.min_steps}, got {self.max_steps}")
        if not 0 < self.quantile <= 1:
            raise BudgetError(f"quantile: must lie in (0, 1], got {self.quantile}")
        if not (self.guard_ms >= 0 and math.isfinite(self.guard_ms)):
            raise BudgetError(f"guard_ms: must be finite and not negative, got {self.guard_ms}")

    def plan(self, state: ControllerState, default_threshold: float, schedule_steps: int) -> Plan:
        """The rule for the next tick of a world with this default threshold and schedule length."""
        ceiling = schedule_steps if self.max_steps is None else min(self.max_steps, schedule_steps)
        if self.policy == "gain":
            return Plan(default_threshold if self.threshold is None else self.threshold, ceiling)
        return Plan(state.previous_score if self.policy == "paper" else None, ceiling)

    def wants_more(self, plan: Plan, step: int, confidence: float, score: float) -> bool:
        """Whether the frame should get another step after `step` of them, if time and ceiling permit.

        `confidence` is the calibrated one, `score` the head's own output through a sigmoid.
        """
        if self.policy == "gain":
            assert plan.threshold is not None
            return step < self.min_steps or confidence < plan.threshold
        if self.policy == "paper":
            assert plan.threshold is not None
            return step > 1 or score < plan.threshold  # all or nothing: only the first step's score is asked
        return True

    def admits(self, elapsed_ms: float, budget_ms: float, step_ms: float | None, decode_ms: float | None) -> bool:
        """Whether a further step is expected to fit: elapsed + step + decode + guard <= budget.

        `step_ms` and `decode_ms` are costs at this controller's quantile; None (never measured) counts as
        nothing, because a step that is never run is never measured either. The first step of a tick is not
        asked about: it is always run, or a frame would never be made and the estimates never renewed.
        """
        return elapsed_ms + (step_ms or 0.0) + (decode_ms or 0.0) + self.guard_ms <= budget_ms

    def observe(self, state: ControllerState, score: float) -> ControllerState:
        """The state after a finished tick whose last denoising step gave this uncalibrated confidence."""
        return ControllerState(previous_score=score)


def _check_steps(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise BudgetError(f"{name}: must be an integer of at least 1, got {value!r}")
