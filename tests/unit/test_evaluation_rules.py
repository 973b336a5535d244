"""Rules of step allocation against values worked out by hand or by search."""

import itertools

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pytorch_msssim")
pytest.importorskip("matplotlib")

import torch

from dsa_runtime.controller import Controller, ControllerState, Outcome
from dsa_runtime.spec import CalibrationSpec, Curve
from exporters.evaluation.allocation.comparison import CostCurve
from exporters.evaluation.allocation.policies import (
    AlternatingPolicy,
    ConfidencePolicy,
    FixedPolicy,
    MotionPolicy,
    OraclePolicy,
    PaperPolicy,
    RandomPolicy,
    best_spend,
    distances_to_full,
    stop_smallest,
    table_threshold,
)
from exporters.evaluation.playing import TickView
from exporters.model.rollout import Estimate
from tests.tiny_trained import calibration, tiny_trained


def view(batch, seed=0, tick=0):
    """A tick of four steps with random estimates and logits."""
    rng = torch.Generator().manual_seed(seed)
    clean = torch.randn(5, batch, 4, 8, 8, generator=rng)
    logits = torch.randn(4, batch, generator=rng)
    return TickView(tick, [Estimate(clean[k + 1], logits[k]) for k in range(4)], clean[0])


def some_steps(batch, ticks=1, seed=1):
    return torch.randint(1, 5, (batch, ticks), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
def test_the_confidence_rule_decides_as_the_runtime_does(threshold):
    tick, table = view(64), calibration((-1.0, 1.0), (-0.5, 0.5), (0.0, 2.0))
    steps = ConfidencePolicy(threshold, table["within_delta"])(tick)
    controller = Controller(threshold=threshold)
    curves = tuple(Curve(tuple(curve["logit"]), tuple(curve["value"])) for curve in table["within_delta"])
    plan = controller.plan(ControllerState(), CalibrationSpec(1.0, "grey level", 0.5, curves, curves, ()), 4)
    for row in range(64):
        logits = [float(estimate.logit[row]) for estimate in tick.estimates]
        step = 1
        while step < 4 and controller.wants_more(plan, step, curves[step - 1](logits[step - 1]), 0.0):
            step += 1
        assert steps[row] == step


def test_the_papers_rule_decides_as_the_runtime_does():
    rule, controller = PaperPolicy(), Controller(policy="paper")
    curves = (Curve((0.0,), (0.5,)),) * 3
    table = CalibrationSpec(1.0, "grey level", 0.5, curves, curves, ())
    states = [ControllerState()] * 16
    for number in range(6):
        tick = view(16, seed=number)
        steps = rule(tick)
        for row in range(16):
            plan = controller.plan(states[row], table, 4)
            scores = [float(estimate.logit[row].sigmoid()) for estimate in tick.estimates]
            step = 1
            while step < 4 and controller.wants_more(plan, step, 0.0, scores[step - 1]):
                step += 1
            assert steps[row] == step
            outcome = Outcome(scores[step - 1], step, "confidence", 1.0, 2.0, 1.0)
            states[row] = controller.observe(plan, outcome)


def test_random_and_motion_keep_the_shares_of_every_tick():
    asked = some_steps(40, ticks=3)
    for tick in range(3):
        for rule in (RandomPolicy(asked, seed=5), MotionPolicy(asked)):
            given = rule(view(40, seed=tick, tick=tick))
            assert torch.equal(given.sort().values, asked[:, tick].sort().values)


def test_random_ignores_the_frames_and_differs_between_ticks():
    asked = some_steps(64, ticks=1).expand(-1, 2)
    rule = RandomPolicy(asked, seed=5)
    assert torch.equal(rule(view(64, seed=0)), rule(view(64, seed=1)))
    assert not torch.equal(rule(view(64, tick=0)), rule(view(64, tick=1)))


@pytest.mark.parametrize("mean", [1.25, 1.5, 2.0, 3.4])
def test_alternating_spends_the_same_total_evenly_in_time_and_in_every_rollout(mean):
    count, horizon = 12, 10
    asked = torch.ones(count, horizon, dtype=torch.long)
    asked.view(-1)[: round((mean - 1) * count * horizon / 3)] = 4  # all of it spent by some frames at the beginning
    rule, rows = AlternatingPolicy(asked), torch.arange(count)
    given = torch.stack([rule(view(count, tick=tick)) for tick in range(horizon)], dim=1)
    assert given.sum() == asked.sum()
    mean = float(asked.double().mean())
    assert set(given.unique().tolist()) <= {int(mean), int(np.ceil(mean))}
    for totals in (given.sum(dim=1), given.cumsum(dim=1)[:, 4], given.sum(dim=0)):
        assert totals.max() - totals.min() <= 1
    assert torch.equal(rule.plan(3, rows[[5, 2]]), given[[5, 2], 3])


def test_a_full_first_frame_comes_once():
    rule = FixedPolicy(2, first=4)
    assert [rule(view(3, tick=tick)).tolist() for tick in (0, 1, 9)] == [[4] * 3, [2] * 3, [2] * 3]


def test_motion_stops_the_stillest_first():
    signal = torch.tensor([[5.0, 1.0], [1.0, 9.0], [4.0, 0.5], [3.0, 7.0]])
    # One stops after step 1 (the smallest of column 0), two after step 2 (the smallest of column 1 that still go).
    assert stop_smallest(signal, torch.tensor([2, 1, 3, 2])).tolist() == [2, 1, 2, 3]


def test_motion_sees_the_change_from_the_previous_frame_and_step():
    tick = view(6)
    tick.previous[2] = tick.estimates[0].clean[2]  # nothing moves in case 2
    assert MotionPolicy(torch.tensor([[1], [4], [4], [4], [4], [4]]))(tick).tolist() == [4, 4, 1, 4, 4, 4]


@pytest.mark.parametrize("total", [3, 5, 8, 12])
def test_the_oracle_spends_best(total):
    cost = np.random.default_rng(total).random((3, 4))
    best = best_spend(cost, total)
    assert best.sum() == total
    searched = min(
        sum(cost[b, k - 1] for b, k in enumerate(ks))
        for ks in itertools.product(range(1, 5), repeat=3)
        if sum(ks) == total
    )
    assert cost[np.arange(3), best - 1].sum() == pytest.approx(searched)


@pytest.mark.parametrize("total", [2, 13])
def test_an_impossible_total_is_refused(total):
    with pytest.raises(ValueError, match=str(total)):
        best_spend(np.zeros((3, 4)), total)


def test_the_oracle_is_nearer_to_the_full_schedule_than_the_others():
    trained, tick, asked = tiny_trained(), view(12), some_steps(12)
    distance = distances_to_full(trained, [estimate.clean for estimate in tick.estimates])
    assert (distance[:, -1] == 0).all() and (distance[:, :-1] > 0).all()

    def total(rule):
        return float(distance[torch.arange(12), rule(tick) - 1].sum())

    oracle = OraclePolicy(asked, trained)
    assert oracle(tick).sum() == asked.sum()
    assert total(oracle) <= min(total(RandomPolicy(asked, seed)) for seed in range(20))


def test_the_threshold_comes_from_the_table():
    assert table_threshold(calibration(), 2.4) == 0.5


def test_curves_are_mixed_linearly_between_their_runs():
    curve = CostCurve(np.array([1.0, 2.0, 3.0]), np.array([[8.0, 4.0], [4.0, 2.0], [2.0, 2.0]]))
    assert curve.at(1.0).tolist() == [8.0, 4.0]
    assert curve.at(1.25).tolist() == [7.0, 3.5]
    assert curve.at(2.5).tolist() == [3.0, 2.0]
    assert curve.at(3.0).tolist() == curve.at(3.2).tolist() == [2.0, 2.0]
    assert curve.at(0.5).tolist() == [8.0, 4.0]
