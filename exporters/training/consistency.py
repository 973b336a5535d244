"""Stage `consistency`: causal consistency distillation of the teacher into a few-step generator.

|| G(x_t, t) - sg G_ema(x_u, u) ||^2 with x_u one Euler step of the teacher from t to the next lower level u (Song et
al. 2023; causal, as in CausVid's successors): no stored ODE pairs. Gate: the error falls with every added step.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from exporters.model.flow import add_noise, euler_step, precondition, schedule_levels
from exporters.model.generator import Generator
from exporters.training.data import Clips
from exporters.training.digest import weights_digest
from exporters.training.distributed import Ranks
from exporters.training.optimizer import transformer_optimizers
from exporters.training.sharding import shard
from exporters.training.stage import Average, Budget, Stage, warm_cool
from exporters.training.teacher import averaged, compile_blocks, context_levels, validation_loss


@dataclass(frozen=True)
class ConsistencyTraining:
    """Settings of the consistency stage."""

    budget: Budget = field(default_factory=lambda: Budget(minutes=12))
    batch: int = 6
    clip: int = 12
    learning_rate: float = 5e-4
    levels: int = 32
    level_shift: float = 3.0
    context_noise: float = 0.15
    average: float = 0.99
    compiled: bool = True


def consistency_loss(
    student: Generator,
    target: Generator,
    teacher: Generator,
    clean: Tensor,
    action: Tensor,
    context_level: Tensor,
    ladder: Tensor,
) -> Tensor:
    """Mean squared difference along one Euler step of the teacher, in units of the network's output.

    clean [B, N, C, h, w]; action [B, N, A]; context_level [B, N]; ladder [M + 1]: levels from 1 down to 0.
    """
    ranks = Ranks.current()
    rung = ranks.draw(lambda s: torch.randint(len(ladder) - 1, s, device=clean.device), tuple(clean.shape[:2]))
    level, lower = ladder[rung], ladder[rung + 1]
    noisy = add_noise(clean, ranks.randn_like(clean), level)
    context = add_noise(clean, ranks.randn_like(clean), context_level)
    with torch.no_grad():
        estimate = teacher.teacher_forced(context, context_level, noisy, level, action)
        nearer = euler_step(noisy, estimate, level, lower)
        goal = target.teacher_forced(context, context_level, nearer, lower, action)
        goal = torch.where((lower == 0)[:, :, None, None, None], estimate, goal)
    output = student.teacher_forced(context, context_level, noisy, level, action)
    _, gain = precondition(level)
    return ((output - goal).square().flatten(2).mean(dim=2) / gain.square()).mean()


def train_consistency(
    config: ConsistencyTraining, folder: Path, teacher: Generator, train: Clips, validation: Clips
) -> tuple[Generator, dict[str, float]]:
    """Distil the teacher; returns the averaged student in eval mode, and its gate."""
    device = next(teacher.parameters()).device
    ranks = Ranks.current()
    student, target = shard(copy.deepcopy(teacher).train()), shard(copy.deepcopy(teacher))
    optimizers = transformer_optimizers(student, config.learning_rate, weight_decay=0.0)
    average = Average(student, config.average)
    parts = {"model": student, "optimizers": optimizers, "average": average}
    inputs = {"teacher.pt": weights_digest(teacher)}
    stage = Stage("consistency", folder, config.budget, parts, inputs=inputs)
    stage.resume()
    guide = copy.deepcopy(teacher)  # compiled in the teacher's stead: later stages play it in ways that do not compile
    if config.compiled and not stage.finished:
        for model in (student, target, guide):
            compile_blocks(model)
    ladder = torch.tensor([*schedule_levels(config.levels, config.level_shift), 0.0], device=device)
    for fraction in stage.steps():
        starts = ranks.rows(train.sample_starts(config.batch, config.clip))
        clean, action = (x.to(device) for x in train.windows(starts, config.clip))
        levels = ranks.draw(lambda s: context_levels(s, config.context_noise), tuple(clean.shape[:2])).to(device)
        target.load_state_dict(average.values)
        loss = consistency_loss(student, target, guide, clean, action, levels, ladder)
        optimizers.zero_grad()
        loss.backward()
        ranks.average_gradients(student.parameters())
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizers.step(warm_cool(fraction, stage.step, 20, cool_from=0.6))
        average.update(student)
        stage.log(20, loss=loss.detach())
    finished = averaged(teacher.config, average).to(device)
    gate = validation_loss(finished, validation, config.clip)
    stage.write(gate=gate)
    return finished, gate
