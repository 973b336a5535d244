"""Learn-then-test: p-values, the choice of a threshold, and rollouts played under one."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy")

from dsa_runtime.calibration import RISK_ERROR  # noqa: E402
from exporters.model.rollout import denoise_frame, warm_context  # noqa: E402
from exporters.training.benefit import pooled, seeded  # noqa: E402
from exporters.training.risk import (  # noqa: E402
    CHECK,
    TEST,
    Played,
    RiskTraining,
    Rollouts,
    candidate_thresholds,
    confidence_interval,
    hoeffding_bentkus,
    learn_then_test,
    play,
    risk_bounds,
    rollouts_key,
)
from tests.tiny_trained import GENERATOR, LEVELS, WINDOW, calibration, tiny_clips, tiny_trained  # noqa: E402

ERROR = RISK_ERROR


@pytest.mark.parametrize(
    ("mean", "count", "alpha", "expected"),
    [
        (0.0, 100, 0.1, 0.9**100),  # Hoeffding's: the chance of no violation at all
        (0.05, 100, 0.1, math.e * 0.0575769),  # Bentkus': e times the binomial's tail up to 5 of 100
        (0.1, 100, 0.1, 1.0),
        (0.5, 10, 0.1, 1.0),
        (0.0, 299, 0.01, 0.99**299),
    ],
)
def test_p_values_are_those_of_the_definition(mean: float, count: int, alpha: float, expected: float) -> None:
    assert hoeffding_bentkus(mean, count, alpha) == pytest.approx(expected, rel=1e-4)


def test_fewer_violations_more_rollouts_and_weaker_promises_are_surer() -> None:
    grid = [hoeffding_bentkus(mean, 200, 0.1) for mean in np.linspace(0, 0.3, 40)]
    assert grid == sorted(grid)
    grid = [hoeffding_bentkus(0.04, count, 0.1) for count in range(20, 1000, 20)]
    assert all(a >= b - 1e-3 for a, b in itertools.pairwise(grid)) and grid[-1] < 1e-6 < grid[0]
    grid = [hoeffding_bentkus(0.04, 200, alpha) for alpha in np.linspace(0.01, 0.5, 40)]
    assert grid == sorted(grid, reverse=True) and grid[0] == 1.0


def test_what_the_settings_say_about_power() -> None:
    """299 rollouts without a violation prove 1 %; 384 bear one frame of 3,072, and 768 bear more."""
    assert hoeffding_bentkus(0.0, 299, 0.01) <= ERROR < hoeffding_bentkus(0.0, 298, 0.01)
    assert hoeffding_bentkus(1 / 3072, 384, 0.01) <= ERROR < hoeffding_bentkus(2 / 3072, 384, 0.01)
    most = max(k for k in range(100) if hoeffding_bentkus(k / 6144, 768, 0.01) <= ERROR)
    assert most == 16


@pytest.mark.parametrize("alpha", [0.05, 0.1])
def test_promises_hold_in_repetitions_of_planted_risks(alpha: float) -> None:
    """The worst case: the first bad candidate is hardly worse than promised, and violations come in whole rollouts."""
    rates = [alpha * x for x in (0.0, 0.2, 0.5, 1.001, 1.5, 3.0)]
    rng = np.random.default_rng(7)
    chosen = []
    for _ in range(200):
        drawn = [(rng.random(400) < rate).astype(float) for rate in rates]
        chosen.append(learn_then_test(drawn.__getitem__, len(rates), alpha, ERROR))
    broken = np.mean([rates[count - 1] > alpha for count in chosen])
    assert broken <= ERROR
    assert np.mean([count >= 2 for count in chosen]) > 0.9  # a fifth of alpha is proven nearly always


def test_nothing_is_played_after_the_first_failure() -> None:
    asked = []

    def losses(candidate: int) -> np.ndarray:
        asked.append(candidate)
        return np.full(400, [0.0, 0.5, 0.0][candidate])

    assert learn_then_test(losses, 3, 0.1, ERROR) == 1
    assert asked == [0, 1]


def test_confidence_intervals_hold_the_truth_and_are_honest_about_zero() -> None:
    assert confidence_interval(np.zeros(384))[0] == pytest.approx(0.0, abs=1e-9)
    assert confidence_interval(np.zeros(384))[1] == pytest.approx(1 - (0.025) ** (1 / 384), abs=1e-5)
    rng = np.random.default_rng(3)
    inside = 0
    for _ in range(60):
        low, high = confidence_interval(rng.binomial(8, 0.1, 200) / 8)
        inside += low <= 0.1 <= high
    assert inside >= 57


def test_candidates_fall_evenly_and_leave_out_the_full_schedule() -> None:
    table = [{"threshold": t, "mean_steps": 1 + 3 * t} for t in np.linspace(0, 1, 61).tolist()]
    thresholds = candidate_thresholds(table, 4, 12)
    assert len(thresholds) == 12 and thresholds == sorted(thresholds, reverse=True)
    assert thresholds[0] == pytest.approx(11 / 12, abs=0.02) and thresholds[-1] == 0.0
    assert candidate_thresholds([{"threshold": 1.0, "mean_steps": 4.0}], 4, 12) == []


def played(violations: float, steps: int, count: int = 400) -> Played:
    """`count` rollouts of 2 frames; this share of them breaks delta 1 (but not 2) in both."""
    distance = torch.zeros(count, 2)
    distance[: round(violations * count)] = 1.5
    return Played(distance, torch.full((count, 2), steps))


def test_bounds_choose_the_cheapest_that_passes_and_report_the_third_split() -> None:
    table = {"delta": 1.0, "thresholds": [{"threshold": t / 4, "mean_steps": 1.0 + t * 0.75} for t in range(5)]}
    truth = {0.75: (0.0, 3), 0.5: (0.02, 2), 0.25: (0.3, 2), 0.0: (0.5, 1)}

    def get(split: str, threshold: float) -> Played:
        violations, steps = truth[threshold]
        return played(violations / (1 if split == TEST else 2), steps)

    rows = risk_bounds(RiskTraining(candidates=4), table, 4, get, {TEST: 8, CHECK: 16})
    chosen = {(row["alpha"], row["delta"]): row["threshold"] for row in rows}
    assert chosen == {
        (0.01, 1.0): 0.75, (0.05, 1.0): 0.5, (0.1, 1.0): 0.5, (0.01, 2.0): 0.0, (0.05, 2.0): 0.0, (0.1, 2.0): 0.0
    }  # fmt: skip
    row = rows[1]
    assert (row["violation"], row["mean_steps"], row["rollouts"]) == (0.02, 2.0, 400)
    assert row["p_value"] == hoeffding_bentkus(0.02, 400, 0.05)
    assert (row["recordings"], row["checked"]["recordings"]) == (8, 16)
    assert row["checked"]["violation"] == 0.01 and row["checked"]["interval"] == list(
        confidence_interval(played(0.01, 2).losses(1.0))
    )


def test_where_nothing_passes_there_is_the_full_schedule() -> None:
    table = {"delta": 1.0, "thresholds": [{"threshold": 0.5, "mean_steps": 2.0}]}
    (row,) = risk_bounds(RiskTraining(alphas=(0.1,), deltas=(1.0,)), table, 4, lambda *_: played(0.2, 2), {})
    assert (row["threshold"], row["mean_steps"], row["violation"], row["rollouts"]) == (1.0, 4.0, 0.0, 0)


CONFIG = RiskTraining(rollouts=5, frames=3, batch=4)
CURVES = calibration()["within_delta"]


def tiny_play(threshold: float, seed: int = 1) -> Played:
    trained = tiny_trained()
    curves: Any = CURVES
    return play(trained.generator, trained.autoencoder, LEVELS, tiny_clips(), curves, threshold, CONFIG, seed)


def test_a_played_threshold_is_the_rule_of_the_runtime_in_closed_loop() -> None:
    """The first batch again, with the sampler of `rollout` and its own noise."""
    threshold, trained, clips = 0.5, tiny_trained(), tiny_clips()
    result, curves = tiny_play(threshold), calibration()["within_delta"]
    with seeded(1), torch.no_grad():
        starts = clips.sample_starts(4, WINDOW + CONFIG.frames)
        real, action = clips.windows(starts, WINDOW + CONFIG.frames)
        context = warm_context(trained.generator, real[:, :WINDOW], action[:, :WINDOW])
        for i in range(CONFIG.frames):
            noise = [torch.randn(4, GENERATOR.latent_channels, 8, 8) for _ in LEVELS]
            act = action[:, WINDOW + i]

            def stop(step: int, estimate: Any) -> Any:
                curve = curves[step - 1]
                return torch.from_numpy(np.interp(estimate.logit.numpy(), curve["logit"], curve["value"]) >= threshold)

            chosen, steps, _ = denoise_frame(trained.generator, LEVELS, act, context, noise.__getitem__, stop)
            full, _, _ = denoise_frame(trained.generator, LEVELS, act, context, noise.__getitem__)
            gap = pooled(trained.autoencoder, chosen) - pooled(trained.autoencoder, full)
            distance = gap.square().mean(dim=(1, 2, 3)).sqrt() * 127.5
            assert torch.equal(result.steps[:4, i], steps)
            torch.testing.assert_close(result.distance[:4, i], distance, rtol=1e-3, atol=1e-3)
            context = trained.generator.commit(chosen, torch.zeros(4), act, context)
    assert len(set(result.steps.flatten().tolist())) > 1


def test_thresholds_from_one_step_to_the_full_schedule() -> None:
    cheapest, dearest = tiny_play(0.0), tiny_play(1.1)
    assert cheapest.steps.shape == cheapest.distance.shape == (5, 3)
    assert (cheapest.steps == 1).all() and (cheapest.distance > 0).all()
    assert (dearest.steps == len(LEVELS)).all() and not dearest.distance.any()
    assert dearest.mean_steps == len(LEVELS) and not dearest.losses(1.0).any()


def test_the_same_seed_plays_the_same_and_leaves_the_global_stream_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = tiny_play(0.5), tiny_play(0.5), tiny_play(0.5, seed=2)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first.distance, again.distance) and not torch.equal(first.distance, other.distance)


def test_rollouts_are_kept_for_a_resumed_stage_and_only_for_the_same_models() -> None:
    made, saves = [], []

    def make(split: str, threshold: float) -> Played:
        made.append((split, threshold))
        return played(threshold, 1)

    first = Rollouts(make, "key", lambda: saves.append(1))
    kept = first.get(TEST, 0.25)
    assert first.get(TEST, 0.25).distance is kept.distance
    first.get(CHECK, 0.25)
    assert made == [(TEST, 0.25), (CHECK, 0.25)] and len(saves) == 2
    resumed, other = Rollouts(make, "key", lambda: None), Rollouts(make, "other", lambda: None)
    for rollouts in (resumed, other):
        rollouts.load_state_dict(first.state_dict())
        assert torch.equal(rollouts.get(TEST, 0.25).distance, kept.distance)
    assert len(made) == 3


def test_the_key_changes_with_the_weights_the_table_the_settings_and_the_seed() -> None:
    generator, table = tiny_trained().generator, calibration()
    keys = {rollouts_key(generator, table, CONFIG, 1), rollouts_key(generator, table, CONFIG, 2)}
    keys.add(rollouts_key(generator, table, RiskTraining(rollouts=6), 1))
    keys.add(rollouts_key(generator, {**table, "delta": 2.0}, CONFIG, 1))
    with torch.no_grad():
        generator.position.add_(1.0)
    keys.add(rollouts_key(generator, table, CONFIG, 1))
    assert len(keys) == 5


@pytest.mark.parametrize(
    "bad",
    [
        {"alphas": (0.0,)},
        {"alphas": (0.05, 0.05)},
        {"deltas": (1.0, 1.0)},
        {"deltas": ()},
        {"deltas": (-1.0,)},
        {"rollouts": 0},
        {"candidates": 0},
    ],
)
def test_bad_settings_name_their_field(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"calibration\.risk"):
        RiskTraining(**bad)
