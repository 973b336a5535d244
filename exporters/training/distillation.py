"""Stage `distillation`: self-rollout with distribution matching, a critic, and the joint confidence loss.

Self-Forcing's recipe (Huang et al. 2025) with DSA's confidence loss (arXiv 2606.04432) and the changes that
`method` asks for: independent exit steps per frame, all-causal scoring, an anchor to the real next frame.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import AdamW

from exporters.model.flow import add_noise, precondition, sample_levels
from exporters.model.generator import Context, Generator
from exporters.model.rollout import warm_context
from exporters.training.data import Clips
from exporters.training.optimizer import Optimizers
from exporters.training.stage import Average, Budget, Stage, warm_cool
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
    """Weight of the confidence loss."""
    confidence_balance: float = 0.5
    """lambda of the confidence loss c * d - lambda * log c, with d of mean 1."""
    average: float = 0.98


LEAD = 2
"""Frames that only give context when a clip is scored."""


class RunningMean:
    """Running mean of a residual per (exit step, level bin), so that the confidence target has mean 1 everywhere."""

    def __init__(self, steps: int, bins: int = 4, decay: float = 0.98) -> None:
        self.values, self.decay, self.bins = torch.ones(steps, bins), decay, bins
        self.seen = torch.zeros(steps, bins, dtype=torch.bool)

    def normalise(self, residual: Tensor, exits: Tensor, level: Tensor) -> Tensor:
        """residual, level [B, N], exits [N] (0-based) -> residual over its running mean, and learn from it."""
        bins = (level * self.bins).long().clamp_max(self.bins - 1)
        rows = exits.expand_as(bins)
        for step, column in {(int(s), int(c)) for s, c in zip(rows.flatten(), bins.flatten(), strict=True)}:
            mean = residual[(rows == step) & (bins == column)].mean().detach().cpu()
            old = self.values[step, column] if self.seen[step, column] else mean
            self.values[step, column] = self.decay * old + (1 - self.decay) * mean
            self.seen[step, column] = True
        return residual / self.values.to(residual)[rows, bins].clamp_min(1e-8)

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
    starts = clips.sample_starts(batch, window + longest)
    real, action = (x.to(device) for x in clips.windows(starts, window))
    with torch.no_grad():
        context = warm_context(generator, real, action)
    return Sessions(starts, context, real[:, -LEAD:], window)


def self_rollout(
    generator: Generator, levels: tuple[float, ...], context: Context, action: Tensor, exits: Tensor
) -> tuple[Tensor, Tensor, Context]:
    """Roll out one frame per action; gradient at each frame's exit step only, and none through the cache.

    action [B, N, A]; exits int64[N], 0-based exit step per frame. Returns frames [B, N, C, h, w] and confidence logits
    [B, N], both with gradient, and the context after them.
    """
    batch, c = action.shape[0], generator.config
    shape = (batch, c.latent_channels, c.latent_height, c.latent_width)
    outputs, logits = [], []
    for i in range(action.shape[1]):
        act, last = action[:, i], int(exits[i])
        x = torch.randn(shape, device=action.device)
        for k in range(last + 1):
            level = x.new_full((batch,), levels[k])
            with torch.set_grad_enabled(k == last):
                estimate, taps, condition = generator.denoise(x, level, act, context)
            if k < last:
                x = add_noise(estimate, torch.randn_like(x), x.new_full((batch,), levels[k + 1]))
        outputs.append(estimate)
        logits.append(generator.confidence(taps, condition))
        with torch.no_grad():
            context = generator.commit(estimate.detach(), x.new_zeros(batch), act, context)
    return torch.stack(outputs, 1), torch.stack(logits, 1), context


def score(model: Generator, clip: Tensor, action: Tensor, noisy: Tensor, level: Tensor) -> Tensor:
    """Clean estimates of the re-noised clip, each frame seeing the clip's own clean frames before it."""
    return model.teacher_forced(clip, torch.zeros_like(level), noisy, level, action)


def train_distillation(
    config: DistillationTraining,
    levels: tuple[float, ...],
    folder: Path,
    teacher: Generator,
    student: Generator,
    train: Clips,
    validation: Clips,
) -> tuple[Generator, dict[str, float]]:
    """Distil on self-rollouts; returns the averaged generator in eval mode, and its gate."""
    device = next(teacher.parameters()).device
    generator, critic = copy.deepcopy(student).train(), copy.deepcopy(teacher).train()
    window = generator.config.window
    # No first moment: the two networks chase each other, and a remembered direction is a stale one.
    g_opt = Optimizers([AdamW(generator.parameters(), lr=config.learning_rate, betas=(0.0, 0.999), weight_decay=0.0)])
    c_opt = Optimizers(
        [AdamW(critic.parameters(), lr=config.critic_learning_rate, betas=(0.0, 0.999), weight_decay=0.0)]
    )
    average, means = Average(generator, config.average), RunningMean(len(levels))
    parts = {
        "generator": generator,
        "critic": critic,
        "g_opt": g_opt,
        "c_opt": c_opt,
        "average": average,
        "means": means,
    }
    stage = Stage("distillation", folder, config.budget, parts)
    stage.resume()
    sessions: Sessions | None = None
    for fraction in stage.steps():
        if sessions is None or sessions.played + config.frames > window + config.longest:
            sessions = open_sessions(generator, train, config.batch, config.longest, device)
        index = sessions.starts + sessions.played - LEAD
        clip_action = train.windows(index, LEAD + config.frames)[1].to(device)
        exits = torch.randint(len(levels), (config.frames,))
        frames, logits, context = self_rollout(generator, levels, sessions.context, clip_action[:, LEAD:], exits)
        clip = torch.cat([sessions.tail, frames.detach()], dim=1)
        sessions = Sessions(sessions.starts, context, clip[:, -LEAD:], sessions.played + config.frames)
        level = sample_levels(tuple(clip.shape[:2]), 1.5).clamp(0.05, 0.98).to(device)
        noisy = add_noise(clip, torch.randn_like(clip), level)
        with torch.no_grad():
            real_score = score(teacher, clip, clip_action, noisy, level)[:, LEAD:]
            fake_score = score(critic, clip, clip_action, noisy, level)[:, LEAD:]
        residual = (frames.detach() - real_score).flatten(2)
        size = residual.abs().mean(dim=2).clamp_min(1e-3)
        gradient = (fake_score - real_score) / size[:, :, None, None, None]
        matching = 0.5 * F.mse_loss(frames, (frames - gradient).detach())

        # The confidence loss: its optimum is lambda / E[d | features], a regression of the teacher residual.
        d = means.normalise(residual.square().mean(dim=2), exits.to(device), level[:, LEAD:])
        confidence = (logits.sigmoid() * d - config.confidence_balance * F.logsigmoid(logits)).mean()

        length = LEAD + config.frames
        real, action = (x.to(device) for x in train.windows(train.sample_starts(config.batch, length), length))
        top = torch.ones(tuple(real.shape[:2]), device=device)
        anchored = generator.teacher_forced(real, torch.zeros_like(top), torch.randn_like(real), top, action)
        anchor = F.mse_loss(anchored[:, LEAD:], real[:, LEAD:])
        g_opt.zero_grad()
        (matching + config.anchor * anchor + config.confidence * confidence).backward()
        torch.nn.utils.clip_grad_norm_(generator.parameters(), 1.0)
        rate = warm_cool(fraction, stage.step, 20, cool_from=0.6)
        # The critic first has to learn what the generator's rollouts look like.
        g_opt.step(rate if stage.step >= 10 else 0.0)
        average.update(generator)

        for _ in range(config.critic_updates):
            level = sample_levels(tuple(clip.shape[:2]), 1.5).to(device)
            noisy = add_noise(clip, torch.randn_like(clip), level)
            estimate = score(critic, clip, clip_action, noisy, level)
            _, gain = precondition(level)
            error = (estimate - clip).square().flatten(2).mean(dim=2) / gain.square()
            critic_loss = error[:, LEAD:].mean()
            c_opt.zero_grad()
            critic_loss.backward()
            torch.nn.utils.clip_grad_norm_(critic.parameters(), 1.0)
            c_opt.step(rate)
        stage.log(
            10,
            matching=matching.detach(),
            anchor=anchor.detach(),
            confidence=confidence.detach(),
            critic=critic_loss.detach(),
            spread=frames.detach().std(),
        )
    generator.load_state_dict(average.values)
    generator.eval()
    gate = validation_loss(generator, validation, window + 4)
    stage.write(gate=gate)
    return generator, gate
