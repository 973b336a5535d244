"""The two confidence heads that the distillation trains: what each is to learn, and where its gradient goes."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from exporters.model.confidence import ConfidenceHead, gain_loss, residual_loss  # noqa: E402
from exporters.model.flow import add_noise  # noqa: E402
from exporters.model.generator import Generator  # noqa: E402
from exporters.model.rollout import warm_context  # noqa: E402
from exporters.training.benefit import collect_benefits, picture_distance, seeded  # noqa: E402
from exporters.training.distillation import (  # noqa: E402
    DistillationTraining,
    RunningMean,
    joint_gain_loss,
    train_distillation,
)
from exporters.training.self_rollout import SelfRollout, remaining_gain, self_rollout  # noqa: E402
from exporters.training.stage import Budget  # noqa: E402
from tests.tiny_trained import GENERATOR, LEVELS, WINDOW, tiny_clips, tiny_trained  # noqa: E402

K = len(LEVELS)


@pytest.fixture
def generator() -> Generator:
    return copy.deepcopy(tiny_trained().generator).train()


def play(generator: Generator, gain_head: ConfidenceHead, exits: list[int], seed: int = 3) -> SelfRollout:
    torch.manual_seed(seed)
    action = torch.randn(2, len(exits), GENERATOR.action_width)
    context = warm_context(generator, torch.randn(2, 3, 4, 8, 8), torch.randn(2, 3, GENERATOR.action_width))
    autoencoder = tiny_trained().autoencoder
    return self_rollout(generator, gain_head, autoencoder, LEVELS, context, action, torch.tensor(exits))


def test_the_gain_is_what_the_remaining_steps_change_in_the_picture(generator: Generator) -> None:
    exit_step = 1
    rolled = play(generator, generator.confidence, [exit_step])
    torch.manual_seed(3)
    action = torch.randn(2, 1, GENERATOR.action_width)[:, 0]
    context = warm_context(generator, torch.randn(2, 3, 4, 8, 8), torch.randn(2, 3, GENERATOR.action_width))
    x, estimates = torch.randn(2, 4, 8, 8), []
    for k, level in enumerate(LEVELS):
        estimates.append(generator.denoise(x, torch.full((2,), level), action, context)[0])
        if k + 1 < K:
            x = add_noise(estimates[-1], torch.randn_like(x), torch.full((2,), LEVELS[k + 1]))
    # Means of 2x2 pixels of what can be shown.
    decoded = (tiny_trained().autoencoder.decode(estimates[k]).clamp(-1, 1) for k in (exit_step, K - 1))
    left, last = (p.reshape(2, 3, 32, 2, 32, 2).mean(dim=(3, 5)) for p in decoded)
    expected = (left - last).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(rolled.frames[:, 0], estimates[exit_step])
    torch.testing.assert_close(rolled.gain[:, 0], expected)
    assert not rolled.gain.requires_grad and expected.min() > 0


def test_the_gain_is_the_benefit_that_all_heads_are_scored_by(generator: Generator) -> None:
    """One frame after the same past, with the same noise: once as the distillation plays it, once as the judge does."""
    trained, clips = tiny_trained(), tiny_clips()
    with seeded(5):
        expected = collect_benefits(trained.generator, trained.autoencoder, LEVELS, clips, 1, 1, 3).squared
    for step in range(K):
        with seeded(5):
            starts = clips.sample_starts(3, WINDOW + 1)
            real, action = clips.windows(starts, WINDOW + 1)
            context = warm_context(trained.generator, real[:, :WINDOW], action[:, :WINDOW])
            rolled = self_rollout(
                generator,
                generator.confidence,
                trained.autoencoder,
                LEVELS,
                context,
                action[:, WINDOW:],
                torch.tensor([step]),
            )
        due = expected[:, step] if step < K - 1 else torch.zeros(3)
        torch.testing.assert_close(rolled.gain[:, 0], due)


def test_frames_that_are_decoded_together_get_their_own_gain() -> None:
    autoencoder = tiny_trained().autoencoder
    torch.manual_seed(6)
    frames, lasts = torch.randn(2, 2, 4, 4, 8, 8)
    going = torch.tensor([False, True, True, False])
    gain = remaining_gain(autoencoder, frames, lasts, going)
    assert not gain[:, ~going].any()
    for row in range(2):
        for column in (1, 2):
            alone = picture_distance(autoencoder, frames[row, column][None], lasts[row, column][None])
            torch.testing.assert_close(gain[row, column], alone[0])
    assert len(gain[:, going].unique()) == 4


@pytest.mark.parametrize("blind", [False, True])
def test_the_stage_learns_the_gain_in_the_pictures_of_its_autoencoder(tmp_path: Path, blind: bool) -> None:
    """If all pictures are the same, there is nothing to gain, whatever the latents do."""
    trained, clips = tiny_trained(), tiny_clips()
    if blind:
        for parameter in trained.autoencoder.decoder[-2].parameters():
            torch.nn.init.zeros_(parameter)
    before = copy.deepcopy(trained.autoencoder.state_dict())
    config = DistillationTraining(Budget(steps=2), batch=2, frames=3, longest=6, critic_updates=1)
    torch.manual_seed(2)
    teacher, student = trained.generator, copy.deepcopy(trained.generator)
    train_distillation(config, LEVELS, tmp_path, teacher, student, trained.autoencoder, clips, clips)
    means = torch.load(tmp_path / "distillation.pt", weights_only=True)["parts"]["gain_means"]
    learned = means["values"][means["seen"]]
    assert len(learned) > 0 and bool((learned == 0).all()) is blind
    assert all(torch.equal(before[name], value) for name, value in trained.autoencoder.state_dict().items())
    assert all(p.grad is None for p in trained.autoencoder.parameters())


def test_a_frame_that_took_all_steps_has_no_gain_and_teaches_the_head_nothing(generator: Generator) -> None:
    means = RunningMean(K - 1, bins=1)
    rolled = play(generator, generator.confidence, [K - 1, K - 1])
    assert torch.equal(rolled.gain, torch.zeros(2, 2))
    loss = joint_gain_loss(rolled, torch.tensor([K - 1, K - 1]), means)
    loss.backward()  # still part of the graph, so that every process of a distributed run has a gradient to reduce
    assert loss.item() == 0.0 and not means.seen.any()
    assert all(p.grad is not None and not p.grad.any() for p in generator.confidence.parameters())


def test_both_heads_teach_the_trunk_but_not_each_other(generator: Generator) -> None:
    gain_head = copy.deepcopy(generator.confidence)
    exits = torch.tensor([0, K - 1, 2])
    rolled = play(generator, gain_head, exits.tolist())
    joint_gain_loss(rolled, exits, RunningMean(K - 1, bins=1)).backward(retain_graph=True)
    trunk = generator.blocks[0].qkv.weight
    assert trunk.grad is not None and trunk.grad.any()
    assert gain_head.out.weight.grad is not None and generator.confidence.out.weight.grad is None
    before = gain_head.out.weight.grad.clone()
    residual_loss(rolled.residual_logit, torch.ones(2, 3), 0.5).mean().backward()
    assert generator.confidence.out.weight.grad is not None
    assert torch.equal(gain_head.out.weight.grad, before)


@pytest.mark.parametrize("mean", [0.25, 1.0, 4.0])
def test_both_losses_are_least_at_the_rate_of_their_target(mean: float) -> None:
    target = torch.full((1,), mean)
    logit = torch.linspace(-6, 6, 24001)
    gain = logit[gain_loss(logit, target).argmin()]
    assert float(gain.exp()) == pytest.approx(1 / mean, rel=1e-2)
    balance = 0.2
    residual = logit[residual_loss(logit, target, balance).argmin()]
    best = min(1.0, balance / mean)
    assert float(residual.sigmoid()) == pytest.approx(best, rel=1e-2)
