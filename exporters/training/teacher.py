"""Stage `teacher`: teacher-forced flow matching. Gate: held-out loss and the response to actions in rollouts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from exporters.model.flow import add_noise, precondition, sample_levels
from exporters.model.generator import Generator, GeneratorConfig
from exporters.training.data import Clips
from exporters.training.distributed import Ranks
from exporters.training.optimizer import transformer_optimizers
from exporters.training.sharding import shard, whole_state
from exporters.training.stage import Average, Budget, Stage, mixed_precision, warm_cool


@dataclass(frozen=True)
class TeacherTraining:
    """Settings of the teacher stage."""

    model: GeneratorConfig = field(default_factory=GeneratorConfig)
    budget: Budget = field(default_factory=lambda: Budget(minutes=35))
    batch: int = 6
    clip: int = 12
    """Frames per clip: the window and a few more."""
    learning_rate: float = 2e-3
    level_shift: float = 2.0
    context_noise: float = 0.15
    """Highest noise level of the clean context frames (half of them get some); the level is an input."""
    action_dropout: float = 0.0
    """Share of frames whose action is replaced by zeros. Only where zeros are no action of their own: of a Discrete
    space they say 'unknown', of a Box 'the middle of the range', which the model would then learn as 'anything'."""
    average: float = 0.998
    compiled: bool = True
    """Compile the blocks: half a minute once, then 1.3x faster steps."""


def compile_blocks(model: Generator) -> None:
    """Compile the blocks' arithmetic where it pays (one compilation serves all blocks of equal shape)."""
    for block in model.blocks:
        block.compile(dynamic=False)


def context_levels(shape: tuple[int, ...], highest: float) -> Tensor:
    """Noise levels of context frames: zero for half of them, else uniform up to `highest`."""
    return torch.rand(shape) * highest * (torch.rand(shape) < 0.5)


def drop_actions(action: Tensor, share: float) -> Tensor:
    """Zero a `share` of the per-frame actions, so that the model also knows 'no action given'."""
    drawn = Ranks.current().draw(torch.rand, tuple(action.shape[:-1]))
    return action * (drawn >= share).unsqueeze(-1).to(action)


def flow_loss(model: Generator, clean: Tensor, action: Tensor, level: Tensor, context_level: Tensor) -> Tensor:
    """Per-frame flow loss [B, N]: the error of the network's unit-variance target.

    It is the velocity loss up to a factor between 1/2 and 1.
    """
    ranks = Ranks.current()
    noisy = add_noise(clean, ranks.randn_like(clean), level)
    context = add_noise(clean, ranks.randn_like(clean), context_level)
    estimate = model.teacher_forced(context, context_level, noisy, level, action)
    _, gain = precondition(level)
    return (estimate - clean).square().flatten(2).mean(dim=2) / gain.square()


@torch.no_grad()
def validation_loss(model: Generator, clips: Clips, clip: int, batches: int = 8, batch: int = 8) -> dict[str, float]:
    """Mean clean-estimate error at fixed levels on fixed held-out clips (frames with a full window only).

    Every rank computes the same: the others would have to wait, and so their random streams stay together.
    """
    device = next(model.parameters()).device
    totals: dict[str, float] = {}
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(1234)
        for _ in range(batches):
            clean, action = (x.to(device) for x in clips.windows(clips.sample_starts(batch, clip), clip))
            noise = torch.randn_like(clean)
            for value in (1.0, 0.75, 0.4):
                level = torch.full(clean.shape[:2], value, device=device)
                estimate = model.teacher_forced(
                    clean, torch.zeros_like(level), add_noise(clean, noise, level), level, action
                )
                error = (estimate - clean)[:, model.config.window :].square().mean()
                totals[f"mse@{value}"] = totals.get(f"mse@{value}", 0.0) + float(error) / batches
            copied = (clean[:, model.config.window - 1 : -1] - clean[:, model.config.window :]).square().mean()
            totals["mse_copy_last"] = totals.get("mse_copy_last", 0.0) + float(copied) / batches
    return totals


def train_teacher(
    config: TeacherTraining, folder: Path, train: Clips, validation: Clips, device: torch.device, name: str = "teacher"
) -> tuple[Generator, dict[str, float]]:
    """Train (or resume, or load) the teacher; returns it in eval mode with averaged weights, and its gate."""
    ranks = Ranks.current()
    model = shard(Generator(config.model).to(device))
    optimizers = transformer_optimizers(model, config.learning_rate)
    average = Average(model, config.average)
    stage = Stage(name, folder, config.budget, {"model": model, "optimizers": optimizers, "average": average})
    stage.resume()
    if config.compiled and not stage.finished:
        compile_blocks(model)
    for fraction in stage.steps():
        starts = ranks.rows(train.sample_starts(config.batch, config.clip))
        clean, action = (x.to(device) for x in train.windows(starts, config.clip))
        shape = tuple(clean.shape[:2])
        level = ranks.draw(lambda s: sample_levels(s, config.level_shift), shape).to(device)
        with mixed_precision(device):
            loss = flow_loss(
                model,
                clean,
                drop_actions(action, config.action_dropout),
                level,
                ranks.draw(lambda s: context_levels(s, config.context_noise), shape).to(device),
            ).mean()
        optimizers.zero_grad()
        loss.backward()
        ranks.average_gradients(model.parameters())
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizers.step(warm_cool(fraction, stage.step, 100, cool_from=0.5))
        average.update(model)
        stage.log(50, loss=loss.detach(), gradient_norm=norm)
        if (stage.step + 1) % 500 == 0:
            heldout = averaged(config.model, average).to(device)
            stage.write(validation=validation_loss(heldout, validation, config.clip))
    teacher = averaged(config.model, average).to(device)
    gate = validation_loss(teacher, validation, config.clip)
    stage.write(gate=gate)
    return teacher, gate


def averaged(config: GeneratorConfig, average: Average) -> Generator:
    """A fresh, uncompiled generator on the CPU, whole and in eval mode, with the averaged weights."""
    model = Generator(config)
    model.load_state_dict(whole_state(average.values, everywhere=True))
    return model.eval()
