"""The allocation on a tiny untrained world: what controls spend, what is compared with what, what is kept on disk."""

import copy
import dataclasses

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pytorch_msssim")
pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

import torch
from scipy.stats import spearmanr

from exporters.evaluation.allocation.comparison import MARGIN, cheapest, compare
from exporters.evaluation.allocation.costs import StepCosts
from exporters.evaluation.allocation.heads import PAPER, Head, Heads, with_head
from exporters.evaluation.allocation.measure import AllocationConfig, Measured, Subject, _Bench, cache_key, measure
from exporters.evaluation.allocation.part import foreseeable, run_allocation, state_error
from exporters.evaluation.allocation.policies import (
    AlternatingPolicy,
    ConfidencePolicy,
    FixedPolicy,
    PaperPolicy,
    RandomPolicy,
    distances_to_full,
)
from exporters.evaluation.allocation.ranking import Witnessed, rank_heads, spearman
from exporters.evaluation.allocation.scoring import Run, Scorer, StateScore
from exporters.evaluation.allocation.table import render_allocation
from exporters.evaluation.allocation.trade_off import draw_trade_off
from exporters.evaluation.cases import held_out_cases
from exporters.evaluation.config import StateColumns
from exporters.evaluation.playing import play
from exporters.evaluation.state.probe import StateReading
from tests.tiny_trained import LEVELS, WINDOW, calibration, recorded_world, tiny_trained

CONFIG = AllocationConfig(
    cases=6, seeds=(0, 1), mean_steps=(2.0, 3.0), control_mean_steps=(2.0, 3.0), horizons=(1, 4), with_flip=False
)
COSTS = StepCosts(2.0, 0.2, 0.1, 1.0, 1.5, "plain", 10)


class Distance:
    """A stand-in for LPIPS that needs no weights."""

    def distance(self, reference, test):
        return np.abs(reference.astype(float) - test).mean(axis=(1, 2, 3)) / 255


@pytest.fixture(scope="module")
def trained():
    return tiny_trained()


@pytest.fixture(scope="module")
def cases(tmp_path_factory, trained):
    return held_out_cases(recorded_world(tmp_path_factory.mktemp("turning")), "test", trained, 6, 4)


@pytest.fixture(scope="module")
def heads(trained, cases):
    """The generator's own head, calibrated to spread over its logits, and the paper's, which is another."""
    logits = []

    def watch(view):
        logits.append(torch.stack([estimate.logit for estimate in view.estimates[:-1]]))
        return torch.ones(len(cases), dtype=torch.long)

    play(trained, cases, 0, watch)
    low, high = torch.cat(logits, dim=1).quantile(torch.tensor([0.1, 0.9]), dim=1)
    table = calibration(*zip(low.tolist(), high.tolist(), strict=True))
    other = copy.deepcopy(trained.generator.confidence)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(5)
        for parameter in other.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    by_name = {"ours": Head("ours", trained.generator.confidence, table), PAPER: Head(PAPER, other, table)}
    return Heads(by_name, "ours")


@pytest.fixture(scope="module")
def subject(trained, heads, cases):
    return Subject(0, trained, heads, cases)


def read_heading(state, frames):
    return np.abs(frames.mean(axis=(1, 2, 3)) / 255 - state[:, 0] / 360)


heading = StateScore("heading", read_heading)


@pytest.fixture(scope="module")
def measured(subject):
    return measure(CONFIG, subject, Distance(), {"heading": heading})


@pytest.fixture(scope="module")
def compared(measured):
    return compare(CONFIG, len(LEVELS), [measured, dataclasses.replace(measured, seed=1)], COSTS)


def steps(measured, name):
    """int64[seeds, B, N]."""
    return np.stack(measured.runs[name].steps)


@pytest.mark.parametrize("rule", ["confidence", "paper", "random", "alternating", "fixed"])
def test_steps_that_nobody_wants_are_not_run_and_change_nothing(trained, heads, cases, rule):
    asked = torch.randint(1, 5, (6, 4), generator=torch.Generator().manual_seed(1))
    make = {
        "confidence": lambda: ConfidencePolicy(0.6, heads.best.calibration["within_delta"]),
        "paper": PaperPolicy,
        "random": lambda: RandomPolicy(asked, 3),
        "alternating": lambda: AlternatingPolicy(asked),
        "fixed": lambda: FixedPolicy(2, 4),
    }[rule]
    everything = play(trained, cases, 0, make())
    calls = []
    handle = trained.generator.final.register_forward_hook(lambda module, given, out: calls.append(len(given[0])))
    frugal = play(trained, cases, 0, make(), full_at=(2,))
    handle.remove()
    assert torch.equal(frugal.steps, everything.steps) and frugal.steps.unique().numel() > 1
    assert torch.allclose(frugal.latents, everything.latents, atol=1e-4)
    assert torch.allclose(frugal.full[:, 2], everything.full[:, 2], atol=1e-4)
    assert frugal.full[:, [0, 1, 3]].isnan().all()
    assert sum(calls) == int(frugal.steps[:, [0, 1, 3]].sum()) + 6 * 4  # tick 2 was wanted in full


def test_controls_spend_exactly_what_the_confidence_spends(measured):
    spread = set()
    for point in ("2", "3"):
        tested = steps(measured, f"confidence @ {point}")
        spread |= set(np.unique(tested))
        for control in ("random", "motion"):
            given = steps(measured, f"{control} @ {point}")
            assert np.array_equal(np.sort(given, axis=1), np.sort(tested, axis=1))
        assert np.array_equal(steps(measured, f"oracle @ {point}").sum(axis=1), tested.sum(axis=1))
        given = steps(measured, f"alternating @ {point}")
        assert np.array_equal(given.sum(axis=(1, 2)), tested.sum(axis=(1, 2)))
        assert np.ptp(given, axis=(1, 2)).max() == 1
    assert len(spread) >= 3
    assert np.array_equal(
        np.sort(steps(measured, "random as paper"), axis=1), np.sort(steps(measured, "paper"), axis=1)
    )
    assert measured.runs["first full @ 2"].mean_steps == pytest.approx((4 + 3 * 2) / 4)
    assert measured.runs["4 steps"].score("tick_rms").max() == 0.0


def test_the_kept_head_decides_and_the_papers_rule_asks_the_papers(measured, trained, heads, cases):
    def played(policy, name):
        world = with_head(trained, heads.by_name[name].module)
        return np.stack([play(world, cases, seed, policy()).steps.numpy() for seed in CONFIG.seeds])

    def threshold():
        return ConfidencePolicy(0.25, heads.best.calibration["within_delta"])  # the table's for 2 steps: 1.75

    assert np.array_equal(steps(measured, "confidence @ 2"), played(threshold, "ours"))
    assert np.array_equal(steps(measured, "paper"), played(PaperPolicy, PAPER))
    assert not np.array_equal(played(threshold, "ours"), played(threshold, PAPER))
    assert not any(name.startswith((PAPER, "ours")) for name in measured.runs)


def test_the_costly_controls_are_played_at_some_points_only(subject, tmp_path):
    config = dataclasses.replace(CONFIG, seeds=(0,), control_mean_steps=(2.2,), horizons=(2,))
    ticks = []
    subject = dataclasses.replace(subject, cases=subject.cases.until(2))
    bench = _Bench(config, subject, Scorer(subject.trained, subject.cases, (2,), None, {}, False), None)
    bench.play_all(0, lambda: ticks.append(1))
    assert len(ticks) == 2 * bench.rollouts
    found = measure(config, subject, None, {})
    families = [{name for name in found.runs if name.endswith(f"@ {point}")} for point in (2, 3)]
    every = ("confidence", "random", "alternating", "motion", "oracle")
    assert families[0] == {"first full @ 2", *(f"{family} @ 2" for family in every)}
    assert families[1] == {"first full @ 3", "confidence @ 3", "random @ 3"}
    result = compare(config, len(LEVELS), [found], COSTS)
    against = {point: {r["against"] for r in result["differences"] if r["point"] == point} for point in (2.0, 3.0)}
    assert against[2.0] - against[3.0] == {"alternating", "motion", "oracle"}
    assert against[3.0] == {"random", "fixed", "first full"}
    assert {row["point"] for row in result["gain"]} == {2.0}
    draw_trade_off(tmp_path / "trade-off.png", result)
    assert "| oracle @ 2 |" in render_allocation(result)


def test_what_is_kept_on_disk_is_known_by_all_that_it_depends_on(subject):
    def key(state_score="one", **changes):
        scores = {"heading": StateScore(state_score, read_heading)}
        return cache_key(CONFIG, dataclasses.replace(subject, **changes), True, scores)

    autoencoder = copy.deepcopy(subject.trained.autoencoder)
    with torch.no_grad():
        next(iter(autoencoder.decoder.parameters())).add_(1e-3)
    head = copy.deepcopy(subject.heads.best.module)
    with torch.no_grad():
        next(head.parameters()).add_(1e-3)
    heads = {**subject.heads.by_name, "ours": dataclasses.replace(subject.heads.best, module=head)}
    cases = subject.cases
    keys = [
        key(),
        key("two"),
        key(trained=dataclasses.replace(subject.trained, autoencoder=autoencoder)),
        key(trained=dataclasses.replace(subject.trained, levels=LEVELS[:-1])),
        key(heads=Heads(heads, "ours")),
        key(cases=dataclasses.replace(cases, actions=cases.actions + 1)),
        key(cases=dataclasses.replace(cases, state=cases.state + 1)),
        key(cases=dataclasses.replace(cases, state=None)),
    ]
    assert len(set(keys)) == len(keys)
    again = dataclasses.replace(subject.trained, autoencoder=copy.deepcopy(subject.trained.autoencoder))
    assert key(trained=again) == key()


def test_scores_are_those_of_the_frames_that_were_played(measured, trained, heads, cases):
    played = play(trained, cases, 1, ConfidencePolicy(0.25, heads.best.calibration["within_delta"]))
    run = measured.runs["confidence @ 2"]
    frames = trained.decode(played.latents)
    for column, horizon in enumerate(CONFIG.horizons):
        tick = horizon - 1
        rms = distances_to_full(trained, [played.latents[:, tick], played.full[:, tick]])[:, 0]
        assert run.score("tick_rms")[:, 1, column] == pytest.approx(rms.numpy(), abs=2e-3)
        real = Distance().distance(cases.future[:, tick], frames[:, tick])
        assert run.score("lpips_real")[:, 1, column] == pytest.approx(real, abs=1e-4)
        state = heading(cases.state[:, WINDOW + tick], frames[:, tick])
        assert run.score("heading")[:, 1, column] == pytest.approx(state, abs=1e-4)
        full = trained.decode(play(trained, cases, 1).latents[:, tick])
        assert run.score("lpips_full")[:, 1, column] == pytest.approx(
            Distance().distance(full, frames[:, tick]), abs=1e-4
        )


def test_differences_are_confidence_minus_control(compared, measured):
    def found(equal, point, score, against):
        rows = [r for r in compared["differences"] if (r["equal"], r["score"], r["against"]) == (equal, score, against)]
        return next(row["mean"] for row in rows if row["point"] == point)

    runs = measured.runs
    for score in ("tick_rms", "heading"):
        tested = runs["confidence @ 3"].cases(score).mean()
        for control in ("random", "alternating", "motion", "oracle"):
            gap = tested - runs[f"{control} @ 3"].cases(score).mean()
            assert found("steps", 3.0, score, control) == pytest.approx(gap)
        fixed = [runs[name].cases(score).mean() for name in ("1 step", "2 steps", "3 steps", "4 steps")]
        spent = runs["confidence @ 3"].mean_steps
        assert found("steps", 3.0, score, "fixed") == pytest.approx(tested - np.interp(spent, [1, 2, 3, 4], fixed))
        assert COSTS.head_ratio == pytest.approx(1.15)
        later = np.interp(1.15 * spent, [1, 2, 3, 4], fixed)
        assert found("time", 3.0, score, "fixed") == pytest.approx(tested - later)
        cost = [1.0, *(runs[f"random @ {point}"].mean_steps for point in (2, 3)), 4.0]
        names = ("1 step", "random @ 2", "random @ 3", "4 steps")
        blind = np.interp(1.15 * spent, cost, [runs[name].cases(score).mean() for name in names])
        assert found("time", 3.0, score, "random") == pytest.approx(tested - blind)
    assert not any(row["against"] == "oracle" for row in compared["differences"] if row["equal"] == "time")


def test_the_tables_and_the_picture(compared, tmp_path, subject):
    text = render_allocation(compared)
    for part in ("At equal denoising steps", "At equal wall time", "paper's rule", "oracle's gain", "The heads"):
        assert part in text
    assert "| heading |" in text and "0 (ours), 1 (ours)" in text
    assert "branches that share its autoencoder, teacher and few-step start" in text
    assert "at 1.1500 times the steps" in text
    config = dataclasses.replace(CONFIG, seeds=(0,), mean_steps=(2.0,), horizons=(2,))
    short = dataclasses.replace(subject, cases=subject.cases.until(2))
    result = run_allocation(config, [short], None, picture=tmp_path / "trade-off.png")
    assert (tmp_path / "trade-off.png").read_bytes().startswith(b"\x89PNG")
    text = render_allocation(result)
    assert "Equal wall time was not measured" in text and "of this one training" in text and "branches" not in text


def test_what_is_done_is_not_played_again(subject, tmp_path, monkeypatch):
    subject = dataclasses.replace(subject, cases=subject.cases.until(2))
    config = dataclasses.replace(CONFIG, seeds=(0,), mean_steps=(2.0,), horizons=(2,))
    first = measure(config, subject, None, {"heading": heading}, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    seeds = []

    def playing(trained, cases, seed, *rest, **more):
        seeds.append(seed)
        return play(trained, cases, seed, *rest, **more)

    monkeypatch.setattr("exporters.evaluation.allocation.measure.play", playing)
    both = measure(dataclasses.replace(config, seeds=(0, 1)), subject, None, {"heading": heading}, tmp_path)
    assert set(seeds) == {1}
    for name, run in both.runs.items():
        assert np.array_equal(run.score("heading")[:, 0], first.runs[name].score("heading")[:, 0])
        assert np.array_equal(run.steps[0], first.runs[name].steps[0]) and len(run.steps) == 2
    assert np.array_equal(both.ranking.rms[:, :1], first.ranking.rms)
    seeds.clear()
    other = dataclasses.replace(subject, trained=dataclasses.replace(subject.trained, checkpoint_sha256="other"))
    measure(config, other, None, {"heading": heading}, tmp_path)
    assert set(seeds) == {0}


def test_heads_are_ranked_by_what_they_know():
    rng = np.random.default_rng(0)
    rms = rng.random((40, 6, 2))
    logits = np.stack([-rms + 0.01 * rng.random(rms.shape), rng.random(rms.shape)], axis=-1)
    table = calibration((-1.0, 0.0), (-1.0, 0.0))
    by_name = {name: Head(name, torch.nn.Identity(), table) for name in ("knows", "guesses")}
    seen = Witnessed(logits, rms, rms - 0.2)
    knows, guesses = rank_heads([(Heads(by_name, "knows"), seen)] * 2, ["knows", "guesses"])
    for step in range(2):
        exact = spearmanr(-logits[:, :, step, 0].ravel(), rms[:, :, step].ravel()).statistic
        assert knows["steps"][step]["rms"]["mean"] == pytest.approx(exact) and exact > 0.99
        blind = guesses["steps"][step]["rms"]
        assert blind["low"] < 0 < blind["high"] and abs(blind["mean"]) < 0.2
        assert knows["steps"][step]["share_harmed"] == pytest.approx(np.mean(rms[:, :, step] < 0.2))
    assert np.isfinite(knows["ece"]) and sum(row["share"] for row in knows["reliability"][0]["bins"]) == pytest.approx(
        1
    )


def test_a_head_that_says_nothing_ranks_nothing():
    assert spearman([np.zeros((5, 4))], [np.random.default_rng(0).random((5, 4))])["mean"] == 0.0


def made_up(seed, values):
    """A training of a two-step schedule whose rules score `values` on 60 cases, with a little noise of their own."""
    rng, heads = np.random.default_rng(seed), Heads({"ours": Head("ours", torch.nn.Identity(), calibration())}, "ours")
    base, runs = np.random.default_rng(9).random((60, 1)), {}
    for name, (mean, cost) in values.items():
        steps = np.ones((60, 10), dtype=np.int64)
        steps[:, : round((cost - 1) * 10)] = 2
        score = base + mean + 0.001 * rng.normal(size=(60, 1))
        runs[name] = Run({"lpips_real": [score]}, [steps])
    return Measured(seed, heads, runs, [Witnessed(rng.random((60, 1, 1, 1)), rng.random((60, 1, 1)), None)])


VALUES = {
    "2 steps": (0.0, 2.0), "1 step": (0.5, 1.0), "first full @ 1": (0.45, 1.1), "paper": (0.2, 1.5),
    "random as paper": (0.25, 1.5), "confidence @ 1.5": (0.1, 1.5), "random @ 1.5": (0.25, 1.5),
    "alternating @ 1.5": (0.25, 1.5), "motion @ 1.5": (0.2, 1.5), "oracle @ 1.5": (0.05, 1.5),
}  # fmt: skip


def compare_made_up(*changes):
    trainings = [made_up(seed, {**VALUES, **change}) for seed, change in enumerate(changes)]
    table = calibration((-0.5, 0.5))
    for training in trainings:
        training.heads.by_name["ours"].__dict__["calibration"] = table
    return compare(AllocationConfig(cases=60, seeds=(0,), mean_steps=(1.5,)), 2, trainings, None)


def test_the_share_of_the_oracles_gain():
    result = compare_made_up({}, {}, {})
    row = result["gain"][0]
    assert row["mean"] == pytest.approx(0.75, abs=0.01) and row["low"] < 0.75 < row["high"]
    assert row["trainings"] == pytest.approx([0.75] * 3, abs=0.02)
    against = {row["against"]: row for row in result["differences"]}
    assert against["random"]["verdict"] == against["fixed"]["verdict"] == "better"
    assert against["oracle"]["verdict"] == "worse"
    papers = {(row["rule"], row["against"]): row["verdict"] for row in result["paper"]}
    assert papers == {("paper", "random"): "better", ("confidence", "paper"): "better"}


def test_of_an_oracle_that_is_worse_than_random_nobody_has_a_share():
    result = compare_made_up(*[{"oracle @ 1.5": (0.4, 1.5), "confidence @ 1.5": (0.35, 1.5)}] * 3)
    assert np.isnan(result["gain"][0]["mean"]) and np.isnan(result["gain"][0]["trainings"]).all()
    assert "nothing to gain" in render_allocation(result)


def test_one_training_that_disagrees_is_enough_to_doubt():
    result = compare_made_up({}, {}, {"confidence @ 1.5": (0.27, 1.5)})
    against = {row["against"]: row for row in result["differences"]}
    assert against["random"]["verdict"] == "unclear" and against["random"]["trainings"][2] > 0


def test_as_good_as_the_full_schedule_needs_a_narrow_interval_and_not_only_zero_in_it():
    def judged(change):
        rows = compare_made_up(change, change, change)["same_quality"]["rows"]
        return rows, {row["rule"]: row for row in rows}

    rows, by_name = judged({"confidence @ 1.5": (-0.01, 1.5)})
    assert cheapest(rows, "confidence") == by_name["confidence @ 1.5"]
    assert by_name["confidence @ 1.5"]["share_of_steps"] == pytest.approx(0.75)
    assert cheapest(rows, "random") is None and not by_name["random @ 1.5"]["inside"]
    noisy = made_up(0, VALUES)
    full = noisy.runs["2 steps"].scores["lpips_real"][0]
    margin = MARGIN * full.mean()
    spread = np.random.default_rng(1).normal(0.0, 20 * margin, full.shape)
    noisy.runs["confidence @ 1.5"].scores["lpips_real"][0] = full + spread - spread.mean()
    noisy.heads.by_name["ours"].__dict__["calibration"] = calibration((-0.5, 0.5))
    config = AllocationConfig(cases=60, seeds=(0,), mean_steps=(1.5,))
    rows = compare(config, 2, [noisy], None)["same_quality"]["rows"]
    row = next(row for row in rows if row["rule"] == "confidence @ 1.5")
    assert row["inside"] and not row["same"]


def test_the_error_of_the_state_is_in_metres_and_what_is_lost_is_as_wrong_as_can_be():
    names, columns = ("a_x", "a_y", "b_x", "b_y"), StateColumns(points={"a": ("a_x", "a_y"), "b": ("b_x", "b_y")})

    class Probe:
        def __init__(self, digest="one"):
            self.columns, self.digest = columns, digest

        def read(self, pictures):
            places = np.array([[[0.0, 0.0], [0.1, 0.0]]] * 4, dtype=np.float32)
            seen = np.array([[True, True], [True, False], [True, True], [True, True]])
            return StateReading(places, seen, np.zeros((4, 0)), np.zeros((4, 0)))

    state = np.array([[0.03, 0.04, 0.1, 0.01]] * 2 + [[5.0, 0.0, 0.1, 0.0], [np.nan] * 4], dtype=np.float32)
    keys = {state_error(Probe(digest), names).key for digest in ("one", "one", "two")}
    assert len(keys) == 2
    error = state_error(Probe(), names)(state, np.zeros((4, 8, 8, 3), np.uint8))
    assert error[:3] == pytest.approx([0.03, 0.125, 0.1]) and np.isnan(error[3])


def test_what_the_environment_moves_is_not_held_against_the_world():
    state = np.zeros((2, 6, 3), dtype=np.float32)
    state[0, 1, 2] = state[1, 4, 2] = 1.0  # dropped: in the context of case 0, within the horizon of case 1
    known = foreseeable(state, 2, StateColumns(jumps="dropped"), ("x", "y", "dropped"))
    assert np.isnan(known).all(axis=2).tolist() == [[False] * 6, [False] * 4 + [True] * 2]
    run = Run({"x": [np.array([[1.0, np.nan], [np.nan, np.nan]]), np.array([[4.0, 3.0], [np.nan, np.nan]])]}, [])
    cases = run.cases("x")
    assert cases[0] == pytest.approx(8 / 3) and np.isnan(cases[1])


def test_points_that_a_schedule_has_no_room_for_are_left_out(trained, heads, cases):
    config = AllocationConfig(mean_steps=(1.5, 2.0, 2.5))
    assert config.points(3) == (1.5, 2.0, 2.5) and config.points(2) == (1.5,) and config.control_points(2) == (1.5,)
    assert config.control_points(3) == (1.5, 2.0)
    assert AllocationConfig(mean_steps=(1.25, 1.7)).control_points(3) == (1.7,)
    alone = dataclasses.replace(trained, levels=(1.0,))
    with pytest.raises(ValueError, match=r"schedule\.levels"):
        measure(CONFIG, Subject(0, alone, heads, cases), None, {})
    with pytest.raises(ValueError, match=r"allocation\.horizons: 16"):
        measure(config, Subject(0, trained, heads, cases), None, {})
    with pytest.raises(ValueError, match=r"allocation\.seeds"):
        AllocationConfig(seeds=())
