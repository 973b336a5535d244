"""Soft targets and credit: the controller against a made-up world whose calibration table is wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsa_runtime import Controller
from dsa_runtime.controller import ControllerState, Outcome
from dsa_runtime.spec import CalibrationSpec, Curve, OperatingPoint

STEPS = 4
SETTLE = 32
FLAT = (Curve((0.0,), (0.5,)),) * (STEPS - 1)
# The table of a world with skew 1 (see Plant): a frame is taken for finished after step k with probability 1 - t**k.
TABLE = tuple(OperatingPoint(t, 1 + t + t**2 + t**3) for t in np.linspace(0, 1, 21).tolist())
CALIBRATION = CalibrationSpec(1.0, "px", 0.5, FLAT, FLAT, TABLE)
# At threshold 0.5 the table says 0.875 steps beyond the first; the plants really take 0.52 to 1.23.
SKEWS = (0.7, 1.0, 1.5)


@dataclass
class Result:
    """One value per tick."""

    steps: np.ndarray
    total_ms: np.ndarray
    demand: np.ndarray
    credit_ms: np.ndarray

    def __getitem__(self, part: slice) -> Result:
        return Result(self.steps[part], self.total_ms[part], self.demand[part], self.credit_ms[part])


class Plant:
    """A world on a machine. Confidence after step k is x**(1 / (skew * k)) with x uniform per frame."""

    def __init__(self, controller: Controller, seed: int = 0, skew: float = 1.0, noise: float = 0.15) -> None:
        self.controller, self.skew, self.noise = controller, skew, noise
        self.rng = np.random.default_rng(seed)
        self.state = ControllerState()

    def run(
        self,
        ticks: int,
        budget_ms: float = math.inf,
        *,
        step_ms: float = 2.5,
        other_ms: float = 2.0,
        frozen_ms: float = 0.0,
        frozen_step: bool = False,
    ) -> Result:
        """`frozen_ms` passes during every tick, within a step or not."""
        rows = []
        for _ in range(ticks):
            plan = self.controller.plan(self.state, CALIBRATION, STEPS)
            allowed_ms = budget_ms + plan.credit_ms
            x, costs, stopped_by = self.rng.random(), [], "ceiling"
            noise = self.rng.lognormal(-(self.noise**2) / 2, self.noise, STEPS)
            while True:
                costs.append(step_ms * float(noise[len(costs)]) + (frozen_ms if frozen_step and not costs else 0.0))
                step = len(costs)
                if step == plan.max_steps:
                    break
                if not self.controller.wants_more(plan, step, x ** (1 / (self.skew * step)), 0.5):
                    stopped_by = "confidence"
                    break
                if not self.controller.admits(sum(costs), allowed_ms, step_ms * 1.4, other_ms):
                    stopped_by = "budget"
                    break
            total_ms = sum(costs) + other_ms + (0.0 if frozen_step else frozen_ms)
            outcome = Outcome(0.5, step, stopped_by, total_ms, budget_ms, sum(costs) / step)  # type: ignore[arg-type]
            self.state = self.controller.observe(plan, outcome)
            rows.append((step, total_ms, math.nan if plan.demand is None else plan.demand, plan.credit_ms))
        return Result(*np.array(rows).T)


def mean_of(results: list[Result]) -> Result:
    """The mean over runs with different seeds: what the loop does, without the noise of single frames."""
    return Result(*(np.mean([getattr(r, name) for r in results], 0) for name in Result.__annotations__))


def feedback(**options: Any) -> Controller:
    return Controller(**{"settle_ticks": SETTLE, "guard_ms": 0.0, **options})


# --- where it settles


@pytest.mark.parametrize("skew", SKEWS)
@pytest.mark.parametrize("target", [1.3, 2.0, 2.8, 3.5])
def test_mean_steps_meet_their_target_though_the_table_is_wrong(target: float, skew: float) -> None:
    result = Plant(feedback(target_steps=target), skew=skew).run(2500)
    assert result[200:].steps.mean() == pytest.approx(target, abs=0.06)


def test_without_feedback_the_table_would_miss_the_target() -> None:
    """Guards the test above: these plants do need feedback."""
    threshold = Controller(target_steps=2.0).plan(ControllerState(), CALIBRATION, STEPS).threshold
    means = [Plant(feedback(threshold=threshold), skew=skew).run(2500).steps.mean() for skew in SKEWS]
    assert means[0] > 2.25 and means[1] == pytest.approx(2.0, abs=0.06) and means[2] < 1.75


@pytest.mark.parametrize(("limits", "target"), [({"min_steps": 2}, 2.6), ({"max_steps": 3}, 2.2)])
@pytest.mark.parametrize("skew", SKEWS)
def test_floor_and_ceiling_hold_with_a_target(limits: dict[str, int], target: float, skew: float) -> None:
    result = Plant(feedback(target_steps=target, **limits), skew=skew).run(2500)
    assert result[200:].steps.mean() == pytest.approx(target, abs=0.06)
    assert result.steps.min() >= limits.get("min_steps", 1) and result.steps.max() <= limits.get("max_steps", STEPS)


@pytest.mark.parametrize("target", [1.0, float(STEPS)])
def test_the_ends_of_the_range_are_reached(target: float) -> None:
    result = Plant(feedback(target_steps=target), skew=1.5).run(200)
    assert (result.steps == target).all()


@pytest.mark.parametrize("skew", SKEWS)
@pytest.mark.parametrize("load", [0.3, 0.45, 0.7])
def test_load_meets_its_target(load: float, skew: float) -> None:
    result = Plant(feedback(target_load=load), skew=skew).run(2500, 15.0)
    # Steps that happen to be dear weigh less in the loop, which shows as a percent or two.
    assert (result[200:].total_ms / 15.0).mean() == pytest.approx(load, rel=0.05)


def test_a_load_that_cannot_be_met_ends_at_the_nearest() -> None:
    assert (Plant(feedback(target_load=0.05)).run(600, 15.0)[400:].steps == 1).all()
    assert (Plant(feedback(target_load=0.9)).run(600, 50.0)[400:].steps == STEPS).all()


def test_load_says_nothing_about_an_infinite_budget() -> None:
    result = Plant(feedback(target_load=0.3)).run(100)
    assert np.ptp(result.demand) == 0


# --- step response and stability

PHASE = 10 * SETTLE
SETTLED = 5 * SETTLE


def load_jumps(controller: Controller, skew: float, seed: int) -> list[Result]:
    """The machine gets three times as slow, and then as fast as it was."""
    plant = Plant(controller, seed, skew)
    return [plant.run(PHASE, 30.0, step_ms=2.5 * load) for load in (1.0, 3.0, 1.0)]


@pytest.mark.parametrize("skew", SKEWS)
def test_load_settles_after_a_jump_and_stays(skew: float) -> None:
    """Within 5 settle_ticks, with no more than a little overshoot, and no swing is left. Both ways."""
    controller = feedback(target_load=0.35)
    runs = [load_jumps(controller, skew, seed) for seed in range(60)]
    settled = []
    for phase in range(3):
        mean = mean_of([run[phase] for run in runs])
        load = mean.total_ms / 30.0
        assert load[SETTLED:].mean() == pytest.approx(0.35, rel=0.06), phase
        blocks = load[SETTLED:].reshape(-1, SETTLE // 2).mean(1)  # a swing of the loop would show here
        assert np.ptp(blocks) < 0.06, phase
        settled.append(float(mean.demand[SETTLED:].mean()))
        if phase:
            # Demand goes from the old level to the new one and not far beyond it.
            start, end = settled[phase - 1], settled[phase]
            beyond = (mean.demand - end) * math.copysign(1.0, end - start)
            assert beyond.max() < 0.15 * abs(end - start), phase
    assert settled[1] < 1.5 < 3.0 < settled[2]  # the jump did ask for something
    assert settled[2] == pytest.approx(settled[0], abs=0.1)


@pytest.mark.parametrize("skew", SKEWS)
@pytest.mark.parametrize("settle_ticks", [4, 32, 128])
def test_noise_of_single_frames_does_not_build_up(skew: float, settle_ticks: int) -> None:
    """In theory demand scatters by deviation * sqrt(1 / (2 * settle_ticks)); an unstable loop runs into its ends."""
    result = Plant(feedback(target_steps=2.5, settle_ticks=settle_ticks), 1, skew).run(4000)[1000:]
    assert result.demand.std() < 2.5 * result.steps.std() / math.sqrt(2 * settle_ticks)


def test_the_loop_is_as_fast_when_the_machine_is_slower() -> None:
    """Target 2 steps' worth, from the same start, on machines of speed 1 and 1/5."""
    paths = []
    for slow in (1.0, 5.0):
        runs = [Plant(feedback(target_load=0.3), seed) for seed in range(40)]
        results = [run.run(150, 20.0 * slow, step_ms=2.0 * slow, other_ms=2.0 * slow) for run in runs]
        paths.append(mean_of(results).demand)
    assert np.ptp(paths[0]) > 0.05  # it does move
    assert paths[0] == pytest.approx(paths[1], abs=1e-9)


@pytest.mark.parametrize("skew", SKEWS)
def test_no_starvation(skew: float) -> None:
    """However long the machine was overloaded: a step in every tick, and the others are back in time."""
    plant = Plant(feedback(target_load=0.35), 2, skew)
    plant.run(100, 30.0)
    overloaded = plant.run(3000, 30.0, step_ms=60.0)
    after = plant.run(SETTLED, 30.0)
    assert (overloaded.steps == 1).all()
    assert after.steps[3 * SETTLE :].mean() > 2.7


# --- disturbances


@pytest.mark.parametrize("target", [{"target_steps": 2.5}, {"target_load": 0.5}])
@pytest.mark.parametrize("frozen_step", [True, False])
def test_a_pause_of_a_minute_disturbs_nothing(target: dict[str, float], frozen_step: bool) -> None:
    runs = [Plant(feedback(**target), 3), Plant(feedback(**target), 3)]
    for plant in runs:
        plant.run(300, 16.0)
    before = runs[0].state.demand
    runs[0].run(1, 16.0, frozen_ms=60_000.0, frozen_step=frozen_step)
    runs[1].run(1, 16.0)
    assert before is not None and runs[0].state.demand is not None
    assert abs(runs[0].state.demand - before) <= (STEPS - 1) / SETTLE
    paths = [plant.run(300, 16.0) for plant in runs]
    assert paths[0].steps[:50].mean() == pytest.approx(paths[1].steps[:50].mean(), abs=0.2)
    assert paths[0].demand[-1] == pytest.approx(paths[1].demand[-1], abs=0.03)


@pytest.mark.parametrize("skew", SKEWS)
@pytest.mark.parametrize("budget_ms", [5.0, 8.5])  # one step, or two
def test_a_budget_that_caps_the_steps_does_not_wind_up_the_demand(budget_ms: float, skew: float) -> None:
    """As soon as the cap is lifted, the mean is the target's: no long spell of too many steps or too few."""
    before, capped, after = [], [], []
    for seed in range(40):
        plant = Plant(feedback(target_steps=2.5), seed, skew)
        before.append(plant.run(8 * SETTLE)[5 * SETTLE :])
        capped.append(plant.run(600, budget_ms))
        after.append(plant.run(SETTLE // 2))
    cap = {5.0: 1, 8.5: 2}[budget_ms]
    assert mean_of(capped).steps.max() <= cap
    assert mean_of(after).demand[0] == pytest.approx(mean_of(before).demand.mean(), abs=0.4)
    assert mean_of(after).steps.mean() == pytest.approx(2.5, abs=0.3)


def test_a_target_that_fits_the_budget_is_met_beside_it() -> None:
    """At most two steps fit, 1.7 are wanted: frames that would have got one get two instead of others' four."""
    result = Plant(feedback(target_steps=1.7), noise=0.0).run(3000, 8.5)
    assert result.steps.max() == 2
    assert result[300:].steps.mean() == pytest.approx(1.7, abs=0.05)


def test_requested_steps_teach_nothing() -> None:
    controller = feedback(target_steps=2.0)
    plan = controller.plan(ControllerState(demand=2.3), CALIBRATION, STEPS)
    state = controller.observe(plan, Outcome(0.9, 4, "request", 12.0, 30.0, 2.5))
    assert (state.demand, state.previous_score) == (2.3, 0.9)


# --- credit


def test_easy_frames_pay_for_hard_ones() -> None:
    """Budget for two steps: with credit some frames get three or four, and the mean time stays within the budget."""
    runs = {
        credit: Plant(feedback(threshold=0.7, credit_ms=credit), 4, noise=0.0).run(3000, 8.5)
        for credit in (0.0, 3.0, 12.0)
    }
    assert runs[0.0].steps.max() == 2
    assert runs[3.0].steps.max() == 3
    assert runs[12.0].steps.max() == 4
    assert runs[0.0].steps.mean() < runs[3.0].steps.mean() < runs[12.0].steps.mean()
    for credit, run in runs.items():
        assert run.total_ms.mean() <= 8.5
        assert run.total_ms.max() <= 8.5 + credit


def test_credit_is_granted_as_saved_and_paid_back_as_used() -> None:
    controller = Controller(credit_ms=10.0)
    state, granted = ControllerState(), []
    for total_ms, budget_ms in [(14.0, 20.0), (5.0, 20.0), (28.0, 20.0), (7.0, math.inf), (60.0, 20.0), (19.0, 20.0)]:
        plan = controller.plan(state, CALIBRATION, STEPS)
        granted.append(plan.credit_ms)
        state = controller.observe(plan, Outcome(0.5, 1, "confidence", total_ms, budget_ms, 3.0))
    assert [*granted, state.credit_ms] == [0.0, 6.0, 10.0, 2.0, 2.0, 0.0, 1.0]


def test_a_balance_from_elsewhere_is_no_way_around_the_limit() -> None:
    assert Controller(credit_ms=2.0).plan(ControllerState(credit_ms=9.0), CALIBRATION, STEPS).credit_ms == 2.0


# --- whatever happens

durations = st.one_of(st.floats(0.0, 100.0), st.floats(0.0, 1e6))
outcomes = st.builds(
    Outcome,
    score=st.floats(0.0, 1.0),
    steps=st.integers(1, STEPS),
    stopped_by=st.sampled_from(["confidence", "budget", "ceiling", "request", "deadline"]),
    total_ms=durations,
    budget_ms=st.one_of(st.floats(0.1, 100.0), st.just(math.inf)),
    step_ms=durations,
)
controllers = st.one_of(
    st.builds(
        Controller,
        target_load=st.floats(0.01, 1.0),
        min_steps=st.integers(1, 6),
        max_steps=st.sampled_from([None, 6, 9]),
        settle_ticks=st.integers(4, 100),
        credit_ms=st.floats(0.0, 50.0),
    ),
    st.builds(Controller, target_steps=st.floats(1.0, STEPS), settle_ticks=st.integers(4, 100)),
    st.builds(Controller, policy=st.sampled_from(["gain", "fixed", "paper"]), credit_ms=st.floats(0.0, 50.0)),
)
tables = st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(1.0, STEPS)), max_size=8, unique_by=lambda row: row[0]).map(
    lambda rows: tuple(
        OperatingPoint(threshold, steps)
        for threshold, steps in zip(sorted(t for t, _ in rows), sorted(s for _, s in rows), strict=True)
    )
)


@settings(max_examples=200, deadline=None)
@given(controllers, tables, st.lists(outcomes, max_size=40))
def test_every_plan_can_be_carried_out(
    controller: Controller, table: tuple[OperatingPoint, ...], history: list[Outcome]
) -> None:
    """Thresholds are confidences, demand stays in its range and moves slowly, the balance between 0 and its limit."""
    calibration = CalibrationSpec(1.0, "px", 0.5, FLAT, FLAT, table)
    state = ControllerState()
    for outcome in history:
        plan = controller.plan(state, calibration, STEPS)
        assert plan.threshold is None or 0 <= plan.threshold <= 1
        assert 1 <= plan.max_steps <= STEPS
        assert 0 <= plan.credit_ms <= controller.credit_ms
        state = controller.observe(plan, outcome)
        assert 0 <= state.credit_ms <= controller.credit_ms
        assert (plan.demand is None) == (controller.target_load is None and controller.target_steps is None)
        if plan.demand is not None:
            assert state.demand is not None
            assert min(controller.min_steps, plan.max_steps) <= state.demand <= plan.max_steps
            assert abs(state.demand - plan.demand) <= (STEPS - 1) / controller.settle_ticks + 1e-9


@settings(max_examples=200, deadline=None)
@given(tables, st.floats(1.0, STEPS), st.floats(1.0, STEPS), st.integers(1, STEPS))
def test_more_demand_never_lowers_the_threshold(
    table: tuple[OperatingPoint, ...], one: float, other: float, ceiling: int
) -> None:
    calibration = CalibrationSpec(1.0, "px", 0.5, FLAT, FLAT, table)
    controller = Controller(target_load=0.5, max_steps=ceiling)
    low, high = (
        controller.plan(ControllerState(demand=demand), calibration, STEPS).threshold for demand in sorted((one, other))
    )
    assert low is not None and high is not None and low <= high


@settings(max_examples=100, deadline=None)
@given(st.floats(0.0, 30.0), st.lists(st.floats(0.0, 1.0), min_size=1, max_size=200))
def test_the_mean_tick_stays_within_the_budget_however_credit_is_used(limit_ms: float, use: list[float]) -> None:
    """A tick takes any share of what it may; what it may is budget and credit."""
    controller, state, spent_ms = Controller(credit_ms=limit_ms), ControllerState(), 0.0
    for share in use:
        plan = controller.plan(state, CALIBRATION, STEPS)
        total_ms = share * (20.0 + plan.credit_ms)
        spent_ms += total_ms
        state = controller.observe(plan, Outcome(0.5, 1, "confidence", total_ms, 20.0, 3.0))
    assert spent_ms <= 20.0 * len(use) * (1 + 1e-9)
