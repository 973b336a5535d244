"""Rules at equal steps on single frames: on made-up numbers whose answer is known, and end to end on a tiny world."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from exporters.evaluation.allocation.heads import Head, Heads  # noqa: E402
from exporters.evaluation.allocation.scoring import TICK_RMS, title  # noqa: E402
from exporters.evaluation.allocation.single_tick import (  # noqa: E402
    Looks,
    SingleTickConfig,
    judge,
    look,
    spend,
)
from exporters.evaluation.allocation.single_tick_table import render_single_tick  # noqa: E402
from exporters.evaluation.cases import held_out_cases  # noqa: E402
from tests.tiny_trained import recorded_world, tiny_trained  # noqa: E402

CURVES = [{"logit": [-4.0, 4.0], "value": [0.0, 1.0]}] * 2
TABLE = {
    "delta": 1.0,
    "default_threshold": 0.5,
    "within_delta": CURVES,
    "benefit": CURVES,
    "thresholds": [{"threshold": t, "mean_steps": m} for t, m in ((0.0, 1.0), (0.5, 2.0), (1.0, 3.0))],
}


def world(knows: float, seed: int = 0) -> tuple[Heads, Looks]:
    """Half of the frames gain much by both steps, half nothing. The head sees the gain with weight `knows`."""
    rng = np.random.default_rng(seed)
    needy = np.repeat([[1.0], [0.0]], 200, axis=0)[..., None] * np.ones((1, 3, 1))
    rms = needy * [8.0, 4.0, 0.0] + 0.1 * np.array([2.0, 1.0, 0.0])
    real = 10.0 + rms + rng.normal(size=(400, 3, 1))
    doubt = knows * (2 * needy - 1) + (1 - abs(knows)) * rng.choice([-1.0, 1.0], size=(400, 3, 1))
    logits = -2.0 * np.sign(doubt + 1e-9 * rng.normal(size=doubt.shape)) * np.ones((1, 1, 2))
    motion = rng.random((400, 3, 2)).astype(np.float32)
    heads = Heads({"head": Head("head", torch.nn.Identity(), TABLE)}, "head")
    return heads, Looks({TICK_RMS: rms, "flip_real": real}, {"head": logits}, motion)


def test_a_head_that_knows_reaches_the_oracle_and_beats_the_controls():
    result = judge(SingleTickConfig(mean_steps=(2.0,)), [world(1.0), world(1.0, 1), world(1.0, 2)])
    point, by_name = result["points"]
    assert (point["head"], by_name["head"]) == ("kept", "head") and by_name["scores"] == point["scores"]
    assert point["mean_steps"] == [2.0, 2.0, 2.0]
    for score in (TICK_RMS, "flip_real"):
        entry = point["scores"][score]
        assert entry["share_of_oracle"]["mean"] == pytest.approx(1.0, abs=0.02)
        for control in ("random", "fixed", "motion"):
            assert entry[control]["verdict"] == "better"
        assert entry["oracle"]["mean"] == pytest.approx(0.0, abs=0.02)
    # Random at shares 1/2, 0, 1/2: half of the needy frames keep their 8 grey levels, so 2 on average are lost.
    assert point["scores"][TICK_RMS]["random"]["mean"] == pytest.approx(-2.0, abs=0.01)
    # Two steps for all: the needy keep 4 of theirs.
    assert point["scores"][TICK_RMS]["fixed"]["mean"] == pytest.approx(-2.0, abs=0.01)


def test_a_head_that_knows_nothing_is_no_better_than_random():
    result = judge(SingleTickConfig(mean_steps=(2.0,)), [world(0.0), world(0.0, 1), world(0.0, 2)])
    entry = result["points"][0]["scores"][TICK_RMS]
    assert entry["random"]["verdict"] == "unclear"
    assert abs(entry["share_of_oracle"]["mean"]) < 0.15


def test_of_an_oracle_that_is_worse_nobody_has_a_share():
    trainings = []
    for seed in range(3):
        heads, seen = world(1.0, seed)
        real = 20.0 - seen.scores["flip_real"]  # what is nearest to the full schedule is farthest from the real frame
        trainings.append((heads, Looks({**seen.scores, "flip_real": real}, seen.logits, seen.motion)))
    result = judge(SingleTickConfig(mean_steps=(2.0,)), trainings)
    entry = result["points"][0]["scores"]
    assert entry["flip_real"]["oracle"]["verdict"] == "unclear" and entry["flip_real"]["random"]["verdict"] == "worse"
    assert np.isnan(entry["flip_real"]["share_of_oracle"]["mean"])
    higher = [(heads, Looks({TICK_RMS: s.scores[TICK_RMS], "psnr_real_db": s.scores["flip_real"]}, s.logits, s.motion))
              for heads, s in trainings]  # fmt: skip
    found = judge(SingleTickConfig(mean_steps=(2.0,)), higher)["points"][0]["scores"]["psnr_real_db"]
    assert found["share_of_oracle"]["mean"] == pytest.approx(1.0, abs=0.05)
    text = render_single_tick(result)
    assert "nothing to gain" in text and "branches that share its autoencoder" in text


def test_neighbouring_moments_are_no_independent_evidence():
    trainings = [world(0.3, seed) for seed in range(3)]
    units = np.arange(400) // 40
    alone, clustered = (
        judge(SingleTickConfig(mean_steps=(2.0,)), trainings, of)["fixed"][0][TICK_RMS] for of in (None, units)
    )
    assert clustered["mean"] == alone["mean"]
    assert clustered["high"] - clustered["low"] > 4 * (alone["high"] - alone["low"])


def test_trainings_that_disagree_leave_it_unclear():
    result = judge(SingleTickConfig(mean_steps=(2.0,)), [world(1.0), world(1.0, 1), world(-1.0, 2)])
    assert result["points"][0]["scores"][TICK_RMS]["random"]["verdict"] == "unclear"


def two_heads(kept: str, seed: int) -> tuple[Heads, Looks]:
    """One head knows everything, the other nothing, and this training kept one of them."""
    (_, good), (_, blind) = world(1.0, seed), world(0.0, seed)
    by_name = {name: Head(name, torch.nn.Identity(), TABLE) for name in ("guesses", "knows")}
    logits = {"knows": good.logits["head"], "guesses": blind.logits["head"]}
    return Heads(by_name, kept), Looks(good.scores, logits, good.motion)


def test_the_kept_head_is_each_trainings_own():
    trainings = [two_heads(kept, seed) for seed, kept in enumerate(("guesses", "knows", "knows"))]
    result = judge(SingleTickConfig(mean_steps=(2.0,)), trainings)
    assert result["kept"] == ["guesses", "knows", "knows"]
    points = {point["head"]: point["scores"][TICK_RMS]["random"]["trainings"] for point in result["points"]}
    assert set(points) == {"kept", "guesses", "knows"}
    assert points["kept"] == [points["guesses"][0], *points["knows"][1:]]
    assert points["kept"][0] > -0.5 and max(points["kept"][1:]) < -1.9
    ranks = {row["head"]: row["tick_rms"]["trainings"] for row in result["ranks"] if row["step"] == 1}
    assert ranks["kept"] == [ranks["guesses"][0], *ranks["knows"][1:]]
    text = render_single_tick(result)
    assert "guesses, knows, knows" in text
    (row,) = (line for line in text.splitlines() if line.startswith(f"| 2.00 | {title(TICK_RMS)} |"))
    kept = next(point for point in result["points"] if point["head"] == "kept")
    assert f"{kept['scores'][TICK_RMS]['random']['mean']:+.4g}" in row
    assert "| guesses | 2.00 |" in text and "| knows | 2.00 |" in text and "| kept | 2.00 |" in text


def test_a_head_that_has_no_name_is_the_kept_one():
    _, seen = world(1.0)
    heads = Heads({"kept": Head("kept", torch.nn.Identity(), TABLE)}, "kept")
    seen = Looks(seen.scores, {"kept": seen.logits["head"]}, seen.motion)
    result = judge(SingleTickConfig(mean_steps=(2.0,)), [(heads, seen)])
    assert [point["head"] for point in result["points"]] == ["kept"]


def test_steps_are_spent_where_the_confidence_is_low():
    logits = np.array([[[4.0, -4.0]], [[-4.0, 4.0]], [[-4.0, -4.0]]])
    assert spend(logits, CURVES, 0.5).tolist() == [[1], [2], [3]]
    assert spend(logits, CURVES, 0.0).tolist() == [[1], [1], [1]]


def test_a_tiny_world_is_looked_at_and_reported(tmp_path):
    dataset, trained = recorded_world(tmp_path), tiny_trained()
    cases = held_out_cases(dataset, "test", trained, 10, 1)
    heads = Heads({"own": Head("own", trained.generator.confidence, trained.calibration)}, "own")
    batches = []
    seen = look(trained, heads, cases, (0, 1), None, batch=4, on_batch=lambda: batches.append(1))
    count = len(cases)
    assert seen.scores[TICK_RMS].shape == (count, 2, 4) and len(batches) == 2 * -(-count // 4)
    assert (seen.scores[TICK_RMS][..., -1] == 0).all() and (seen.scores[TICK_RMS][..., 0] > 0).all()
    assert seen.logits["own"].shape == (count, 2, 3)
    again = look(trained, heads, cases, (1,), None, batch=4)
    np.testing.assert_array_equal(again.logits["own"][:, 0], seen.logits["own"][:, 1])
    text = render_single_tick(judge(SingleTickConfig(seeds=(0, 1)), [(heads, seen)]))
    assert "share of the oracle's gain" in text and "| own | 1 |" in text
