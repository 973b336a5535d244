"""Rules at equal steps on single frames: on made-up numbers whose answer is known, and end to end on a tiny world."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from exporters.evaluation.allocation.heads import Head, Heads  # noqa: E402
from exporters.evaluation.allocation.scoring import TICK_RMS  # noqa: E402
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
    (point,) = result["points"]
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


def test_trainings_that_disagree_leave_it_unclear():
    result = judge(SingleTickConfig(mean_steps=(2.0,)), [world(1.0), world(1.0, 1), world(-1.0, 2)])
    assert result["points"][0]["scores"][TICK_RMS]["random"]["verdict"] == "unclear"


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
