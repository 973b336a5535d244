"""What the four confidence heads are compared by, the samples of that, and the stage that fits two of them."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy")

from exporters.model.confidence import ConfidenceHead  # noqa: E402
from exporters.training.benefit import OWN, REAL_FRAMES, Benefits, collect_benefits, seeded  # noqa: E402
from exporters.training.confidence import (  # noqa: E402
    JOINT_GAIN,
    JOINT_RESIDUAL,
    POST_HOC_GAIN,
    POST_HOC_RESIDUAL,
    ConfidenceFit,
    ConfidenceTraining,
    auroc,
    rank_correlation,
    rank_metrics,
    train_confidence,
)
from exporters.training.stage import Budget, Stage  # noqa: E402
from tests.tiny_trained import GENERATOR, LEVELS, WINDOW, tiny_clips, tiny_trained  # noqa: E402

K = len(LEVELS)


def test_rank_correlation_of_perfect_reversed_and_empty_knowledge() -> None:
    benefit = torch.tensor([1.0, 2.0, 3.0, 5.0, 9.0])
    logit = torch.stack([-benefit, benefit, torch.ones(5)], 1)
    target = benefit[:, None].expand(5, 3)
    assert rank_correlation(logit, target) == [pytest.approx(1.0), pytest.approx(-1.0), 0.0]
    holes = target.clone()
    holes[3] = torch.nan
    assert rank_correlation(logit, holes) == [pytest.approx(1.0), pytest.approx(-1.0), 0.0]


def test_auroc_counts_pairs_in_the_right_order() -> None:
    logit = torch.tensor([[3.0], [2.0], [1.0], [1.0]])
    positive = torch.tensor([[False], [True], [False], [True]])
    # Pairs (positive, negative): (2, 3) right, (2, 1) wrong, (1, 3) right, (1, 1) half.
    assert auroc(logit, positive) == [pytest.approx(2.5 / 4)]
    assert auroc(logit, torch.zeros(4, 1, dtype=torch.bool)) == [None]


def collected(seed: int = 0, **options: Any) -> Benefits:
    trained = tiny_trained()
    with seeded(seed):
        return collect_benefits(trained.generator, trained.autoencoder, LEVELS, tiny_clips(), 2, 5, 3, **options)


def test_samples_hold_every_target_of_every_step() -> None:
    teacher = copy.deepcopy(tiny_trained().generator)
    own = teacher.confidence
    samples = collected(teacher=teacher, residual_levels=(0.3, 0.7), heads={"copy": own})
    frames = 2 * 5 * 3
    assert samples.squared.shape == samples.signed.shape == samples.logits[OWN].shape == (frames, K - 1)
    assert samples.residual.shape == (frames, K - 1, 2) and samples.residual.min() > 0
    assert samples.taps[0].shape == (frames, K - 1, GENERATOR.tokens, GENERATOR.dim)
    assert torch.equal(samples.logits["copy"], samples.logits[OWN])
    real = torch.isfinite(samples.signed).all(dim=1).reshape(2, 5, 3)
    assert real[:, :REAL_FRAMES].all() and not real[:, REAL_FRAMES:].any()
    metrics = rank_metrics(samples, samples.logits[OWN], float(samples.rms.median()))
    assert all(len(values) == K - 1 for values in metrics.values())


def test_a_teacher_does_not_change_what_is_played() -> None:
    """It draws noise of its own, so only the first frame's first estimate is the same; but the shapes of all are."""
    plain, judged = collected(), collected(teacher=tiny_trained().generator, residual_levels=(0.5,))
    assert torch.equal(plain.logits[OWN][:3], judged.logits[OWN][:3])
    assert plain.residual.numel() == 0 and collected(keep_taps=False).taps == []


def test_the_signed_benefit_is_measured_against_the_recorded_frame() -> None:
    """If the recorded picture is the full schedule's own, every other estimate is further away from it."""
    trained, clips = tiny_trained(), tiny_clips(1, WINDOW + 1)
    with seeded(4):
        first = collect_benefits(trained.generator, trained.autoencoder, LEVELS, clips, 1, 1, 1)
    # e_k and e_K from the distances of the three pictures: |e_k - e_K| can be at most the distance k to K.
    assert (first.signed.abs() <= first.rms * (1 + 1e-4)).all() and first.signed.any()


CONFIG = ConfidenceTraining(
    rollouts=1, frames=2, heldout_rollouts=1, budget=Budget(steps=6), batch=8, residual_levels=(0.5,)
)


def fresh_head() -> ConfidenceHead:
    """Of the generator's shape, with other weights."""
    with seeded(8):
        return ConfidenceHead(GENERATOR.dim, len(GENERATOR.taps))


def fit(folder: Path, seed: int = 3, config: ConfidenceTraining = CONFIG) -> ConfidenceFit:
    trained, clips = tiny_trained(), tiny_clips()
    torch.manual_seed(seed)
    gain_head = copy.deepcopy(trained.generator.confidence)
    teacher = copy.deepcopy(trained.generator)
    return train_confidence(
        config, LEVELS, folder, trained.generator, gain_head, fresh_head(), teacher, trained.autoencoder, clips, clips
    )


def test_the_stage_returns_four_heads_and_keeps_the_best(tmp_path: Path) -> None:
    fitted = fit(tmp_path)
    assert set(fitted.heads) == {"joint-residual", "joint-gain", "post-hoc-residual", "post-hoc-gain"}
    scores = {name: np.mean(metrics["rank_correlation"]) for name, metrics in fitted.gate["heads"].items()}
    assert scores[fitted.kept] == max(scores.values())
    for name, value in fitted.heads[fitted.kept].state_dict().items():
        assert torch.equal(fitted.generator.confidence.state_dict()[name], value)
    weights = [fitted.heads[name].out.weight for name in ("joint-residual", POST_HOC_RESIDUAL, POST_HOC_GAIN)]
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])


def test_the_post_hoc_heads_start_afresh_and_not_from_a_trained_head(tmp_path: Path) -> None:
    """At a rate of almost 0 they stay where they start."""
    heads = fit(tmp_path, config=replace(CONFIG, learning_rate=1e-9)).heads
    fresh, joint = fresh_head().state_dict(), heads[JOINT_RESIDUAL].state_dict()
    for name in (POST_HOC_RESIDUAL, POST_HOC_GAIN):
        for part, value in heads[name].state_dict().items():
            torch.testing.assert_close(value, fresh[part], rtol=0, atol=1e-7, msg=part)
        assert not torch.allclose(heads[name].hidden.weight, joint["hidden.weight"], atol=1e-3)


def test_the_gate_says_what_each_head_has_learned(tmp_path: Path) -> None:
    """The gain heads the same; the residual heads not, and the levels are those of the recipe."""
    targets = fit(tmp_path, config=replace(CONFIG, residual_levels=(0.25, 0.75))).gate["targets"]
    assert isinstance(targets, dict) and targets[JOINT_GAIN] == targets[POST_HOC_GAIN]
    assert "one random noise level" in targets[JOINT_RESIDUAL] and "a clip" in targets[JOINT_RESIDUAL]
    assert "0.25, 0.75" in targets[POST_HOC_RESIDUAL] and "full cache" in targets[POST_HOC_RESIDUAL]


def test_a_killed_fit_goes_on_with_the_samples_that_it_had(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole")

    class Killed(Exception):
        pass

    original = Stage.log

    def die_at_three(stage: Stage, every: int, **values: Any) -> None:
        if stage.step == 2:
            stage.step += 1  # as after the yield
            stage.save()
            raise Killed
        original(stage, every, **values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stage, "log", die_at_three)
        with pytest.raises(Killed):
            fit(tmp_path / "killed")
    resumed = fit(tmp_path / "killed")
    for name in (POST_HOC_RESIDUAL, POST_HOC_GAIN):
        for part, value in whole.heads[name].state_dict().items():
            torch.testing.assert_close(resumed.heads[name].state_dict()[part], value, msg=part)
    other = fit(tmp_path / "other", seed=4)
    assert not torch.equal(other.heads[POST_HOC_GAIN].out.weight, whole.heads[POST_HOC_GAIN].out.weight)


def test_halves_share_no_recording_and_lose_no_frame() -> None:
    clips = tiny_clips(5, 20)
    earlier, later = clips.halves()
    assert earlier.starts.tolist() == [0, 20] and later.starts.tolist() == [40, 60, 80]
    assert int(earlier.lengths.sum() + later.lengths.sum()) == 100
    one, rest = tiny_clips(1, 21).halves()
    assert (one.starts.tolist(), one.lengths.tolist()) == ([0], [10])
    assert (rest.starts.tolist(), rest.lengths.tolist()) == ([10], [11])
