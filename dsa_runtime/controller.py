"""Controller: how many denoising steps a frame gets. Pure arithmetic: it reads no clock and keeps no state.

A controller is configuration, shared freely between sessions. What changes from tick to tick is a
`ControllerState`, a small value that the session owns, replaces after a finished tick and can put into a
snapshot.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass
from typing import Literal

from .calibration import CalibrationSpec, OperatingPoint
from .errors import BudgetError
from .tick import StoppedBy

Policy = Literal["gain", "fixed", "paper"]
POLICIES = ("gain", "fixed", "paper")


@dataclass(frozen=True)
class ControllerState:
    """What one tick hands to the next."""

    previous_score: float = 1.0
    """Uncalibrated confidence of the previous frame; 1 before the first frame (Algorithm 1 of the paper)."""
    demand: float | None = None
    """With a soft target: the mean steps to ask the calibration table for; None before anything was learned."""
    credit_ms: float = 0.0
    """Time that earlier ticks saved: the balance, never negative."""


@dataclass(frozen=True)
class Plan:
    """The rule for one tick, fixed before its first denoising step."""

    threshold: float | None
    max_steps: int
    credit_ms: float = 0.0
    """Granted on top of the tick's budget."""
    demand: float | None = None
    """With a soft target: where on the calibration table the threshold was read, in mean steps."""


@dataclass(frozen=True)
class Outcome:
    """What became of a tick, for `Controller.observe`."""

    score: float
    """Uncalibrated confidence after its last denoising step."""
    steps: int
    stopped_by: StoppedBy
    total_ms: float
    """From the call to the finished frame, however late."""
    budget_ms: float
    """Without credit; may be infinite."""
    step_ms: float
    """Mean measured cost of one of its denoising steps."""


@dataclass(frozen=True)
class Controller:
    """Decides after every denoising step whether the frame gets another one.

    Two questions, in this order: does the frame *want* another step (`wants_more`, by policy), and does the
    step *fit* before the deadline (`admits`, whatever the policy)?

    policy `gain`   stop as soon as the calibrated confidence reaches the threshold
           `fixed`  always `max_steps`
           `paper`  Algorithm 1 of the DSA paper: one step; if its uncalibrated confidence is lower than that
                    of the previous frame, run all the others

    Policy `gain` needs a threshold: the world's default, a given one, or one that moves to meet a soft target.
    The soft target is a mean over many ticks; the budget of each tick holds all the same. The loop is integral
    feedback: demand += (target - seen) / settle_ticks, in steps, and the calibration table says which
    threshold costs `demand` steps in the mean. How right the table is decides only how fast that settles.
    """

    policy: Policy = "gain"
    threshold: float | None = None
    """For `gain`: a confidence in [0, 1]; None for the world's own default, which keeps the quality that the world was
    loaded with, or with a soft target."""
    min_steps: int = 1
    """For `gain`: steps taken whatever the confidence, if the budget allows."""
    max_steps: int | None = None
    """Ceiling of steps; None for the length of the world's schedule."""
    target_steps: float | None = None
    """For `gain`, a soft target: mean denoising steps per tick. Frames that the budget cuts short of it are not made
    up for on others."""
    target_load: float | None = None
    """For `gain`, a soft target: mean share (0..1] of their budget that ticks use. Ticks with an infinite budget
    leave it alone. Rare ticks that are many steps too long count as a few steps too long, so that a machine that
    freezes now and then lies somewhat above the target instead of paying every freeze back in quality."""
    settle_ticks: int = 32
    """Time constant of a soft target: after so many ticks about 2/3 of a deviation is made up."""
    credit_ms: float = 0.0
    """The most that a tick may exceed its budget by, out of what earlier ticks left of theirs: easy frames pay
    for hard ones. 0: every tick keeps to its own budget. In the mean, ticks stay within the budget either way."""
    quantile: float = 0.96
    """What cannot be taken back (decoding; a step, if `rescue` is off) is reckoned at the cost that this share of
    recent runs stayed within. Missing it makes a tick late only if it also outlasts the guard."""
    step_quantile: float = 0.5
    """The same for a further step that can be abandoned. If it overruns, it has cost work but no deadline, so it is
    worth beginning as soon as it is more likely to fit than not."""
    guard_ms: float = 1.5
    """Time kept free before the deadline for what is not measured."""
    rescue: bool = True
    """Whether a further step that is still running when the deadline comes is abandoned for the frame of the step
    before. False lets it finish, and the tick be late."""

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise BudgetError(f"policy: expected one of {', '.join(POLICIES)}, got {self.policy!r}")
        if self.threshold is not None and not 0 <= _number("threshold", self.threshold) <= 1:
            raise BudgetError(f"threshold: must lie in [0, 1], got {self.threshold}")
        _check_steps("min_steps", self.min_steps)
        if self.max_steps is not None:
            _check_steps("max_steps", self.max_steps)
            if self.max_steps < self.min_steps:
                raise BudgetError(f"max_steps: must not be below min_steps = {self.min_steps}, got {self.max_steps}")
        self._check_targets()
        _check_steps("settle_ticks", self.settle_ticks, least=4)  # a faster loop would overshoot
        _check_time("credit_ms", self.credit_ms)
        if not 0 < _number("quantile", self.quantile) <= 1:
            raise BudgetError(f"quantile: must lie in (0, 1], got {self.quantile}")
        if not 0 < _number("step_quantile", self.step_quantile) <= 1:
            raise BudgetError(f"step_quantile: must lie in (0, 1], got {self.step_quantile}")
        _check_time("guard_ms", self.guard_ms)

    @property
    def follows_default(self) -> bool:
        """Whether the threshold is the world's default one."""
        aims = self.threshold is not None or self.target_steps is not None or self.target_load is not None
        return self.policy == "gain" and not aims

    def plan(self, state: ControllerState, calibration: CalibrationSpec, schedule_steps: int) -> Plan:
        """The rule for the next tick of a world with this calibration and schedule length.

        Raises `BudgetError` if the world's schedule is too short for `target_steps`.
        """
        ceiling = schedule_steps if self.max_steps is None else min(self.max_steps, schedule_steps)
        credit_ms = min(state.credit_ms, self.credit_ms)  # the balance may come from a snapshot
        if self.policy == "paper":
            return Plan(state.previous_score, ceiling, credit_ms)
        if self.policy == "fixed":
            return Plan(None, ceiling, credit_ms)
        if self.target_steps is None and self.target_load is None:
            threshold = calibration.default_threshold if self.threshold is None else self.threshold
            return Plan(threshold, ceiling, credit_ms)
        if self.target_steps is not None and self.target_steps > ceiling:
            raise BudgetError(
                f"target_steps: this world has {schedule_steps} steps, got {self.target_steps}; lower the target"
            )
        # The table is about 1..schedule_steps steps; floor and ceiling squeeze it into floor..ceiling.
        floor = min(self.min_steps, ceiling)
        squeeze = (ceiling - floor) / max(schedule_steps - 1, 1)
        demand = state.demand
        if demand is None:
            demand = self.target_steps  # for a load, not even the cost of a step is known yet
        if demand is None:
            at_default = _steps_at(calibration.thresholds, calibration.default_threshold, schedule_steps)
            demand = floor + (at_default - 1) * squeeze
        demand = min(max(demand, floor), ceiling)
        if demand <= floor:
            threshold = 0.0
        elif demand >= ceiling:
            threshold = 1.0
        else:
            threshold = _threshold_at(calibration.thresholds, 1 + (demand - floor) / squeeze, schedule_steps)
        return Plan(threshold, ceiling, credit_ms, demand)

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

        `step_ms` and `decode_ms` are costs at `step_and_decode_quantiles`; None (never measured) counts as
        nothing, because a step that is never run is never measured either. The first step of a tick is not
        asked about: it is always run, or a frame would never be made and the estimates never renewed.
        `budget_ms` includes the plan's credit.
        """
        return elapsed_ms + (step_ms or 0.0) + (decode_ms or 0.0) + self.guard_ms <= budget_ms

    @property
    def step_and_decode_quantiles(self) -> tuple[float, float]:
        """The quantiles of measured cost at which `admits` wants to be asked."""
        return (self.step_quantile if self.rescue else self.quantile), self.quantile

    def observe(self, plan: Plan, outcome: Outcome) -> ControllerState:
        """The state after a finished tick that was run by this plan."""
        demand = plan.demand
        if demand is not None:
            floor = min(self.min_steps, plan.max_steps)
            most = plan.max_steps - floor
            demand += min(max(self._error(plan, outcome), -most), most) / self.settle_ticks
            demand = min(max(demand, floor), plan.max_steps)
        credit_ms = plan.credit_ms
        if math.isfinite(outcome.budget_ms):
            credit_ms = min(max(credit_ms + outcome.budget_ms - outcome.total_ms, 0.0), self.credit_ms)
        return ControllerState(previous_score=outcome.score, demand=demand, credit_ms=credit_ms)

    def _error(self, plan: Plan, outcome: Outcome) -> float:
        """How many steps the tick lies below the soft target; 0 where it says nothing about it."""
        if outcome.stopped_by == "request":
            return 0.0
        if self.target_steps is not None:
            error = self.target_steps - outcome.steps
        elif self.target_load is not None and math.isfinite(outcome.budget_ms) and outcome.step_ms > 0:
            # At the tick's own cost, so that the loop is as fast when the machine is three times as slow.
            error = (self.target_load * outcome.budget_ms - outcome.total_ms) / outcome.step_ms
        else:
            return 0.0
        if outcome.stopped_by in ("budget", "deadline") and error > 0:
            # Not the threshold held it back, so asking for more would not help, and would be too much as soon as
            # the budget allows it. Count half of the steps that were left, as if they had been taken.
            error = min(error - (plan.max_steps - outcome.steps + 1) / 2, 0.0)
        return error

    def _check_targets(self) -> None:
        if self.target_steps is None and self.target_load is None:
            return
        name = "target_load" if self.target_steps is None else "target_steps"
        if self.target_steps is not None and self.target_load is not None:
            raise BudgetError("target_load: cannot be combined with target_steps; give one of the two")
        if self.policy != "gain":
            raise BudgetError(f"{name}: only policy 'gain' can follow a target, not {self.policy!r}; leave one out")
        if self.threshold is not None:
            raise BudgetError(f"{name}: sets the threshold itself; leave out threshold = {self.threshold}")
        if self.target_load is not None and not 0 < _number(name, self.target_load) <= 1:
            raise BudgetError(f"target_load: must lie in (0, 1], got {self.target_load}")
        if self.target_steps is not None:
            top = math.inf if self.max_steps is None else self.max_steps
            if not self.min_steps <= _number(name, self.target_steps) <= top or math.isinf(self.target_steps):
                least_to_most = f"{self.min_steps}..{'' if self.max_steps is None else self.max_steps}"
                raise BudgetError(
                    f"target_steps: must lie in min_steps..max_steps = {least_to_most}, got {self.target_steps}"
                )


# The calibration table rises in both columns. Where it does not reach, threshold 0 costs one step and 1 all.


def _steps_at(table: tuple[OperatingPoint, ...], threshold: float, schedule_steps: int) -> float:
    """Mean steps that the table expects of a threshold, linear between its points."""
    right = bisect.bisect_right(table, threshold, key=_threshold)
    low = table[right - 1] if right else OperatingPoint(0.0, 1.0)
    high = table[right] if right < len(table) else OperatingPoint(1.0, float(schedule_steps))
    return _between(low.threshold, high.threshold, low.mean_steps, high.mean_steps, threshold)


def _threshold_at(table: tuple[OperatingPoint, ...], steps: float, schedule_steps: int) -> float:
    """The inverse of `_steps_at`; of thresholds that cost the same, the highest."""
    right = bisect.bisect_right(table, steps, key=_mean_steps)
    low = table[right - 1] if right else OperatingPoint(0.0, 1.0)
    high = table[right] if right < len(table) else OperatingPoint(1.0, float(schedule_steps))
    return _between(low.mean_steps, high.mean_steps, low.threshold, high.threshold, steps)


def _threshold(point: OperatingPoint) -> float:
    return point.threshold


def _mean_steps(point: OperatingPoint) -> float:
    return point.mean_steps


def _between(x0: float, x1: float, y0: float, y1: float, x: float) -> float:
    return y0 + (y1 - y0) * min(max((x - x0) / (x1 - x0), 0.0), 1.0) if x1 > x0 else y1


def _number(name: str, value: float) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise BudgetError(f"{name}: expected a number, got {value!r}")
    return value


def _check_time(name: str, value: float) -> None:
    if not (_number(name, value) >= 0 and math.isfinite(value)):
        raise BudgetError(f"{name}: must be finite and not negative, got {value}")


def _check_steps(name: str, value: int, least: int = 1) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise BudgetError(f"{name}: must be an integer of at least {least}, got {value!r}")
