"""Stage `distillation`: self-rollout with distribution matching, a critic, and two joint confidence losses.

Self-Forcing's recipe (Huang et al. 2025) with DSA's confidence loss (arXiv 2606.04432) and the changes that
`method` asks for: independent exit steps per frame, all-causal scoring, an anchor to the real next frame. A second
confidence head of the same shape, on the same features, learns what the remaining steps would still change in the
picture: the measure by which all heads are compared (`benefit`).

Its target is that of the gain head fitted post hoc (`confidence`); that of the residual head is not that of the one
fitted post hoc. This one is the paper's: the teacher's residual at one random noise level, that of the distribution
matching, with the frames of a clip as context. Post hoc it is the mean of several levels, with the full cache.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import AdamW

from exporters.model.autoencoder import Autoencoder
from exporters.model.confidence import ConfidenceHead, gain_loss, residual_loss
from exporters.model.flow import add_noise, precondition, sample_levels
from exporters.model.generator import Context, Generator
from exporters.model.rollout import warm_context
from exporters.training.data import Clips
from exporters.training.digest import weights_digest
from exporters.training.distributed import Ranks
from exporters.training.optimizer import Optimizers
from exporters.training.self_rollout import SelfRollout, self_rollout
from exporters.training.sharding import shard, whole
from exporters.training.stage import Average, Budget, Stage, mixed_precision, warm_cool
from exporters.training.teacher import validation_loss


@dataclass(frozen=True)
class DistillationTraining:
    """Settings of the distillation stage."""

    budget: Budget = field(default_factory=lambda: Budget(minutes=18))
    batch: int = 6
    frames: int = 8
    """Frames rolled out and scored per update."""
    longest: int = 64
    """Frames after which a batch of sessions starts anew from real ones."""
    critic_updates: int = 2
    """Critic updates per generator update, on re-noised copies of the same rollouts."""
    learning_rate: float = 3e-5
    critic_learning_rate: float = 1e-4
    anchor: float = 0.1
    """Weight of the error to the real next frame at full noise, teacher-forced: holds the response to actions."""
    confidence: float = 0.05
    """Weight of the confidence loss of the generator's own head, whose target is the teacher's residual."""
    confidence_balance: float = 0.5
    """lambda of that loss c * d - lambda * log c, with d of mean 1."""
    gain: float = 0.05
    """Weight of the loss of the second head, whose target is the gain of the remaining steps."""
    average: float = 0.98


LEAD = 2
"""Frames that only give context when a clip is scored."""


class RunningMean:
    """Running mean of a target per (exit step, level bin): what a confidence head learns has mean 1 everywhere."""

    def __init__(self, steps: int, bins: int = 4, decay: float = 0.98) -> None:
        self.values, self.decay, self.bins = torch.ones(steps, bins), decay, bins
        self.seen = torch.zeros(steps, bins, dtype=torch.bool)

    def normalise(self, residual: Tensor, exits: Tensor, level: Tensor) -> Tensor:
        """Target and level [B, N], exits [N] (0-based) -> the target over its running mean, and learn from it.

        It learns from the rows of all ranks.
        """
        own = (level * self.bins).long().clamp_max(self.bins - 1)
        everywhere, bins = Ranks.current().gather(residual), Ranks.current().gather(own)
        rows = exits.expand_as(bins)
        for step, column in {(int(s), int(c)) for s, c in zip(rows.flatten(), bins.flatten(), strict=True)}:
            mean = everywhere[(rows == step) & (bins == column)].mean().detach().cpu()
            old = self.values[step, column] if self.seen[step, column] else mean
            self.values[step, column] = self.decay * old + (1 - self.decay) * mean
            self.seen[step, column] = True
        return residual / self.values.to(residual)[exits.expand_as(own), own].clamp_min(1e-8)

    def state_dict(self) -> dict[str, Tensor]:
        return {"values": self.values, "seen": self.seen}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.values, self.seen = state["values"], state["seen"]


@dataclass
class Sessions:
    """A batch of sessions that the generator plays on from one update to the next, up to `longest` frames.

    Scoring windows of long rollouts is what teaches it to live with its own mistakes.
    """

    starts: Tensor
    """int64[B]: first frame of each session's recording, whose actions it follows."""
    context: Context
    tail: Tensor
    """float32[B, lead, C, h, w]: the frames before the next one, as context for scoring."""
    played: int
    """Frames committed so far, the real window included."""


def open_sessions(generator: Generator, clips: Clips, batch: int, longest: int, device: torch.device) -> Sessions:
    """Start from real windows that have at least `longest` more recorded actions."""
    window = generator.config.window
    starts = Ranks.current().rows(clips.sample_starts(batch, window + longest))
    real, action = (x.to(device) for x in clips.windows(starts, window))
    with torch.no_grad():
        context = warm_context(generator, real, action)
    return Sessions(starts, context, real[:, -LEAD:], window)


def joint_gain_loss(rolled: SelfRollout, exits: Tensor, means: RunningMean) -> Tensor:
    """Mean loss of the gain head over the frames that did not exit at the last step: those had nothing to gain.

    Zero, but still a function of the head, if all did. `means` has a row for every step but the last.
    """
    going = torch.nonzero(exits < len(means.values)).flatten()
    if len(going) == 0:
        return 0.0 * rolled.gain_logit.sum()
    gain = rolled.gain[:, going]
    target = means.normalise(gain, exits[going].to(gain.device), torch.zeros_like(gain))
    return gain_loss(rolled.gain_logit[:, going], target).mean()


def score(model: Generator, clip: Tensor, action: Tensor, noisy: Tensor, level: Tensor) -> Tensor:
    """Clean estimates of the re-noised clip, each frame seeing the clip's own clean frames before it."""
    return model.teacher_forced(clip, torch.zeros_like(level), noisy, level, action)


def train_distillation(
    config: DistillationTraining,
    levels: tuple[float, ...],
    folder: Path,
    teacher: Generator,
    student: Generator,
    autoencoder: Autoencoder,
    train: Clips,
    validation: Clips,
) -> tuple[Generator, ConfidenceHead, dict[str, float]]:
    """Distil on self-rollouts; returns the averaged generator and gain head in eval mode, and the generator's gate.

    The generator's own head has learned the teacher's residual ("joint-residual"), the other one the gain in the
    frozen autoencoder's pictures ("joint-gain").
    """
    device = next(teacher.parameters()).device
    ranks = Ranks.current()
    generator, critic = shard(copy.deepcopy(student).train()), shard(copy.deepcopy(teacher).train())
    # No stage before has trained a head: both start from the same weights, and differ by their targets alone.
    gain_head = shard(copy.deepcopy(student.confidence))
    window = generator.config.window
    learning = [*generator.parameters(), *gain_head.parameters()]
    # No first moment: the two networks chase each other, and a remembered direction is a stale one.
    g_opt = Optimizers([AdamW(learning, lr=config.learning_rate, betas=(0.0, 0.999), weight_decay=0.0)])
    c_opt = Optimizers(
        [AdamW(critic.parameters(), lr=config.critic_learning_rate, betas=(0.0, 0.999), weight_decay=0.0)]
    )
    average, gain_average = Average(generator, config.average), Average(gain_head, config.average)
    means, gain_means = RunningMean(len(levels)), RunningMean(len(levels) - 1, bins=1)
    parts = {
        "generator": generator,
        "critic": critic,
        "g_opt": g_opt,
        "c_opt": c_opt,
        "average": average,
        "means": means,
        "gain_head": gain_head,
        "gain_average": gain_average,
        "gain_means": gain_means,
    }
    inputs = {"teacher.pt": weights_digest(teacher), "consistency.pt": weights_digest(student)}
    stage = Stage("distillation", folder, config.budget, parts, inputs=inputs)
    stage.resume()
    sessions: Sessions | None = None
    for fraction in stage.steps():
        if sessions is None or sessions.played + config.frames > window + config.longest:
            sessions = open_sessions(generator, train, config.batch, config.longest, device)
        index = sessions.starts + sessions.played - LEAD
        clip_action = train.windows(index, LEAD + config.frames)[1].to(device)
        exits = ranks.agree(torch.randint(len(levels), (config.frames,)))  # each rank must do the same work
        rolled = self_rollout(generator, gain_head, autoencoder, levels, sessions.context, clip_action[:, LEAD:], exits)
        frames = rolled.frames
        clip = torch.cat([sessions.tail, frames.detach()], dim=1)
        sessions = Sessions(sessions.starts, rolled.context, clip[:, -LEAD:], sessions.played + config.frames)
        level = ranks.draw(lambda s: sample_levels(s, 1.5), tuple(clip.shape[:2])).clamp(0.05, 0.98).to(device)
        noisy = add_noise(clip, ranks.randn_like(clip), level)
        with torch.no_grad(), mixed_precision(device):
            real_score = score(teacher, clip, clip_action, noisy, level)[:, LEAD:]
            fake_score = score(critic, clip, clip_action, noisy, level)[:, LEAD:]
        residual = (frames.detach() - real_score).flatten(2)
        size = residual.abs().mean(dim=2).clamp_min(1e-3)
        gradient = (fake_score - real_score) / size[:, :, None, None, None]
        matching = 0.5 * F.mse_loss(frames, (frames - gradient).detach())

        # The two confidence losses: the teacher's residual, and what the remaining steps would still change.
        d = means.normalise(residual.square().mean(dim=2), exits.to(device), level[:, LEAD:])
        confidence = residual_loss(rolled.residual_logit, d, config.confidence_balance).mean()
        gain = joint_gain_loss(rolled, exits, gain_means)

        length = LEAD + config.frames
        starts = ranks.rows(train.sample_starts(config.batch, length))
        real, action = (x.to(device) for x in train.windows(starts, length))
        top = torch.ones(tuple(real.shape[:2]), device=device)
        with mixed_precision(device):
            anchored = generator.teacher_forced(real, torch.zeros_like(top), ranks.randn_like(real), top, action)
        anchor = F.mse_loss(anchored[:, LEAD:], real[:, LEAD:])
        g_opt.zero_grad()
        (matching + config.anchor * anchor + config.confidence * confidence + config.gain * gain).backward()
        ranks.average_gradients(learning)
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        rate = warm_cool(fraction, stage.step, 20, cool_from=0.6)
        # The critic first has to learn what the generator's rollouts look like.
        g_opt.step(rate if stage.step >= 10 else 0.0)
        average.update(generator)
        gain_average.update(gain_head)

        for _ in range(config.critic_updates):
            level = ranks.draw(lambda s: sample_levels(s, 1.5), tuple(clip.shape[:2])).to(device)
            noisy = add_noise(clip, ranks.randn_like(clip), level)
            with mixed_precision(device):
                estimate = score(critic, clip, clip_action, noisy, level)
            _, scale = precondition(level)
            error = (estimate - clip).square().flatten(2).mean(dim=2) / scale.square()
            critic_loss = error[:, LEAD:].mean()
            c_opt.zero_grad()
            critic_loss.backward()
            ranks.average_gradients(critic.parameters())
            torch.nn.utils.clip_grad_norm_(critic.parameters(), 1.0)
            c_opt.step(rate)
        stage.log(
            10,
            matching=matching.detach(),
            anchor=anchor.detach(),
            confidence=confidence.detach(),
            gain=gain.detach(),
            critic=critic_loss.detach(),
            spread=frames.detach().std(),
        )
    generator.load_state_dict(average.values)
    generator = whole(generator, student).eval()
    gain_head.load_state_dict(gain_average.values)
    gain_head = whole(gain_head, student.confidence)
    gate = validation_loss(generator, validation, window + 4)
    stage.write(gate=gate)
    return generator, gain_head.eval(), gate
