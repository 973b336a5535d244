"""The two confidence heads that the distillation trains: what each is to learn, and where its gradient goes."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")

from exporters.model.confidence import ConfidenceHead, gain_loss, residual_loss  # noqa: E402
from exporters.model.flow import add_noise  # noqa: E402
from exporters.model.generator import Generator  # noqa: E402
from exporters.model.rollout import warm_context  # noqa: E402
from exporters.training.distillation import (  # noqa: E402
    RunningMean,
    SelfRollout,
    joint_gain_loss,
    self_rollout,
)
from tests.tiny_trained import GENERATOR, LEVELS, tiny_trained  # noqa: E402

K = len(LEVELS)


@pytest.fixture
def generator() -> Generator:
    return copy.deepcopy(tiny_trained().generator).train()


def play(generator: Generator, gain_head: ConfidenceHead, exits: list[int], seed: int = 3) -> SelfRollout:
    torch.manual_seed(seed)
    action = torch.randn(2, len(exits), GENERATOR.action_width)
    context = warm_context(generator, torch.randn(2, 3, 4, 8, 8), torch.randn(2, 3, GENERATOR.action_width))
    return self_rollout(generator, gain_head, LEVELS, context, action, torch.tensor(exits))


def test_the_gain_is_what_the_remaining_steps_change(generator: Generator) -> None:
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
    expected = (estimates[exit_step] - estimates[-1]).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(rolled.frames[:, 0], estimates[exit_step])
    torch.testing.assert_close(rolled.gain[:, 0], expected)
    assert not rolled.gain.requires_grad and expected.min() > 0


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
