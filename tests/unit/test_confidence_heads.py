"""What the confidence heads are compared by, the samples of that, and the stage that fits three of them."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy")

from exporters.model.autoencoder import pictures_to_uint8  # noqa: E402
from exporters.model.confidence import ConfidenceHead  # noqa: E402
from exporters.model.lpips import LpipsUnavailable  # noqa: E402
from exporters.training.benefit import OWN, REAL_FRAMES, Benefits, collect_benefits, seeded  # noqa: E402
from exporters.training.confidence import (  # noqa: E402
    JOINT_GAIN,
    JOINT_RESIDUAL,
    POST_HOC_GAIN,
    POST_HOC_RESIDUAL,
    POST_HOC_WORTH,
    ConfidenceFit,
    ConfidenceTraining,
    auroc,
    fit_heads,
    rank_correlation,
    rank_metrics,
    read_all,
    standardised,
    train_confidence,
    worth_target,
)
from exporters.training.run import perceptual_distance  # noqa: E402
from exporters.training.stage import Budget, Stage  # noqa: E402
from tests.tiny_trained import GENERATOR, LEVELS, WINDOW, MeanDistance, tiny_clips, tiny_trained  # noqa: E402

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
    metrics = rank_metrics(samples, samples.logits[OWN], samples.rms.median(dim=0).values.tolist())
    assert "rank_correlation_worth" not in metrics
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


def test_auroc_asks_each_step_for_its_own_delta() -> None:
    samples = collected()
    deltas = samples.rms.median(dim=0).values * torch.tensor([1.0, 0.5, 2.0])
    assert rank_metrics(samples, samples.logits[OWN], deltas.tolist())["auroc"] == auroc(
        samples.logits[OWN], torch.stack([samples.rms[:, k] > deltas[k] for k in range(K - 1)], 1)
    )


def test_the_perceptual_distance_is_that_of_every_steps_picture_to_the_recorded_one() -> None:
    """Of a generator that draws the same latent at every step, and knows nothing of the past."""
    trained, clips, drawn = tiny_trained(), tiny_clips(), torch.full((3, GENERATOR.latent_channels, 8, 8), 0.5)
    denoise = trained.generator.denoise

    def same(x: Any, *rest: Any) -> Any:
        return drawn, *denoise(x, *rest)[1:]

    with pytest.MonkeyPatch.context() as patch, seeded(0):
        patch.setattr(trained.generator, "denoise", same)
        samples = collect_benefits(
            trained.generator, trained.autoencoder, LEVELS, clips, 1, 5, 3, perceptual=MeanDistance()
        )
    with torch.no_grad(), seeded(0):
        starts = clips.sample_starts(3, WINDOW + 5)
        picture = pictures_to_uint8(trained.autoencoder.decode(drawn)).numpy()
    found = samples.perceptual.reshape(5, 3, K)
    for i in range(REAL_FRAMES):
        expected = MeanDistance().distance(clips.frames[starts + WINDOW + i].numpy(), picture)
        np.testing.assert_allclose(found[i].numpy(), np.tile(expected[:, None], K), rtol=1e-6)
    assert torch.isnan(found[REAL_FRAMES:]).all()
    assert samples.step_gain.shape == (5 * 3, K - 1) and not samples.step_gain[:3].any()
    assert collected().perceptual.numel() == 0


def test_after_a_recorded_past_every_frame_is_compared_with_a_recorded_one() -> None:
    trained, clips, committed = tiny_trained(), tiny_clips(), []
    commit = trained.generator.commit

    def watched(clean: Any, *rest: Any) -> Any:
        committed.append(clean)
        return commit(clean, *rest)

    with pytest.MonkeyPatch.context() as patch, seeded(0):
        patch.setattr(trained.generator, "commit", watched)
        samples = collect_benefits(
            trained.generator, trained.autoencoder, LEVELS, clips, 1, 5, 3, perceptual=MeanDistance(), recorded=True
        )
    assert torch.isfinite(samples.perceptual).all() and torch.isfinite(samples.signed).all()
    with seeded(0):
        starts = clips.sample_starts(3, WINDOW + 5)
    assert torch.equal(torch.stack(committed, 1), clips.windows(starts, WINDOW + 5)[0])


CONFIG = ConfidenceTraining(
    rollouts=1, frames=2, heldout_rollouts=1, budget=Budget(steps=6), batch=8, residual_levels=(0.5,),
    recorded_rollouts=1, recorded_heldout_rollouts=1
)  # fmt: skip


def fresh_head() -> ConfidenceHead:
    """Of the generator's shape, with other weights."""
    with seeded(8):
        return ConfidenceHead(GENERATOR.dim, len(GENERATOR.taps))


def fit(
    folder: Path, seed: int = 3, config: ConfidenceTraining = CONFIG, perceptual: MeanDistance | None = None
) -> ConfidenceFit:
    trained, clips = tiny_trained(), tiny_clips()
    torch.manual_seed(seed)
    gain_head = copy.deepcopy(trained.generator.confidence)
    teacher = copy.deepcopy(trained.generator)
    models = trained.generator, gain_head, fresh_head(), teacher, trained.autoencoder
    return train_confidence(config, LEVELS, folder, *models, clips, clips, perceptual)


def test_with_a_perceptual_distance_the_head_is_kept_that_ranks_best_what_a_step_is_worth(tmp_path: Path) -> None:
    fitted = fit(tmp_path, perceptual=MeanDistance())
    assert list(fitted.heads) == [JOINT_RESIDUAL, JOINT_GAIN, POST_HOC_RESIDUAL, POST_HOC_GAIN, POST_HOC_WORTH]
    assert set(fitted.gate["targets"]) == set(fitted.heads) and fitted.gate["kept_by"] == "rank_correlation_worth"
    scores = {name: np.mean(metrics["rank_correlation_worth"]) for name, metrics in fitted.gate["heads"].items()}
    assert scores[fitted.kept] == max(scores.values()) and len(set(scores.values())) > 1
    # Both distances are reported of all heads.
    assert all(len(metrics["rank_correlation"]) == K - 1 for metrics in fitted.gate["heads"].values())
    for name in fresh_head().state_dict():
        assert not torch.equal(fitted.heads[POST_HOC_WORTH].state_dict()[name], fresh_head().state_dict()[name])


def test_the_head_of_worth_learns_what_its_features_tell_and_not_the_noise(tmp_path: Path) -> None:
    """Worth follows one feature, with opposite signs at the two steps, under noise of twice its size."""
    with seeded(5):
        cause = torch.randn(600, 2)
        condition = torch.zeros(600, 2, 8)
        condition[:, 0, 0], condition[:, 1, 1] = cause.T
        worth = cause * torch.tensor([0.02, -0.001]) + torch.tensor([0.05, 0.0])
        noisy = worth + 2 * worth.std(dim=0) * torch.randn(600, 2)
        perceptual = torch.cat([noisy, torch.zeros(600, 1)], 1).flip(1).cumsum(1).flip(1)
        samples = Benefits(
            [torch.randn(600, 2, 2, 8).half()], condition, torch.rand(600, 2), {},
            residual=torch.rand(600, 2, 1), perceptual=perceptual,
        )  # fmt: skip
        heads = {name: ConfidenceHead(8, 1) for name in (POST_HOC_GAIN, POST_HOC_RESIDUAL, POST_HOC_WORTH)}
        optimizers = [torch.optim.AdamW(head.parameters(), lr=3e-3) for head in heads.values()]
        stage = Stage("confidence", tmp_path, Budget(steps=150), dict(heads))
        config = replace(CONFIG, batch=8, worth_batch=64, worth_distance=0.0, learning_rate=3e-3)
        fit_heads(config, stage, heads, optimizers, dict.fromkeys(heads, samples), torch.device("cpu"))
        logit = read_all(heads[POST_HOC_WORTH], samples, torch.device("cpu"))
    assert min(rank_correlation(logit, worth)) > 0.8


def test_the_target_of_worth_has_a_share_of_the_distance_and_no_scale() -> None:
    samples = Benefits(
        [], torch.empty(0), torch.tensor([[1.0, 4.0], [4.0, 1.0], [9.0, 9.0]]), {},
        perceptual=torch.tensor([[0.9, 0.3, 0.2], [0.5, 0.3, 0.3], [0.6, 0.3, 0.2]]),
    )  # fmt: skip
    for share in (0.0, 0.5, 1e6):
        target = worth_target(samples, share)
        torch.testing.assert_close(target.mean(dim=0), torch.zeros(2))
        torch.testing.assert_close(target.std(dim=0), torch.ones(2))
    assert rank_correlation(-worth_target(samples, 0.0), samples.step_gain) == pytest.approx([1, 1])
    assert rank_correlation(-worth_target(samples, 1e6), samples.squared) == pytest.approx([1, 1])
    gain, distance = worth_target(samples, 0.0), worth_target(samples, 1e6)
    torch.testing.assert_close(worth_target(samples, 0.5), standardised(gain + 0.5 * distance), atol=1e-4, rtol=1e-4)


def test_weights_that_cannot_be_had_leave_the_head_out_and_say_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise LpipsUnavailable("no network")

    monkeypatch.setattr("exporters.training.run.Lpips.load", refuse)
    assert perceptual_distance(ConfidenceTraining()) is None
    assert "no head learns what a step is worth to the eye: no network" in capsys.readouterr().out
    assert perceptual_distance(ConfidenceTraining(perceptual="none")) is None and not capsys.readouterr().out
    with pytest.raises(ValueError, match=r"confidence\.perceptual: 'ssim' is none of lpips, none"):
        ConfidenceTraining(perceptual="ssim")


def test_without_a_perceptual_distance_the_best_by_distance_is_kept(tmp_path: Path) -> None:
    fitted = fit(tmp_path)
    assert fitted.gate["kept_by"] == "rank_correlation"
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
    distance = MeanDistance()
    whole = fit(tmp_path / "whole", perceptual=distance)

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
            fit(tmp_path / "killed", perceptual=distance)
    resumed = fit(tmp_path / "killed", perceptual=distance)
    for name in (POST_HOC_RESIDUAL, POST_HOC_GAIN, POST_HOC_WORTH):
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
