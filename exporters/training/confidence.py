"""Stage `confidence`: fit the head to the gain of further steps, on the frozen generator.

The joint head of the distillation regresses the teacher's residual, as the paper does; stopping needs the benefit of
going on. This stage fits a head of the same shape to that benefit and keeps whichever ranks held-out frames better.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path

import torch
from scipy.stats import spearmanr
from torch import Tensor

from exporters.model.autoencoder import Autoencoder
from exporters.model.confidence import ConfidenceHead
from exporters.model.generator import Generator
from exporters.training.benefit import Benefits, collect_benefits
from exporters.training.data import Clips
from exporters.training.stage import Budget, Stage, warm_cool


@dataclass(frozen=True)
class ConfidenceTraining:
    """Settings of the confidence stage."""

    rollouts: int = 28
    """Self-rollout batches of 16 whose features are collected for the fit."""
    frames: int = 12
    heldout_rollouts: int = 8
    budget: Budget = field(default_factory=lambda: Budget(steps=800))
    batch: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.05


def gain_loss(logit: Tensor, benefit: Tensor) -> Tensor:
    """Exponential likelihood of the benefit (of mean 1) with rate exp(logit): high logit, little left to gain."""
    return (benefit * logit.clamp(-8, 8).exp() - logit).mean()


def rank_correlation(logit: Tensor, squared: Tensor) -> list[float]:
    """Spearman correlation of -logit with the benefit, one per step: 1 ranks frames perfectly, 0 knows nothing."""
    return [float(spearmanr(-logit[:, k].numpy(), squared[:, k].numpy()).statistic) for k in range(logit.shape[1])]


def train_confidence(
    config: ConfidenceTraining,
    levels: tuple[float, ...],
    folder: Path,
    generator: Generator,
    autoencoder: Autoencoder,
    train: Clips,
    validation: Clips,
) -> tuple[Generator, dict[str, object]]:
    """Returns the generator with the better head, and the gate with both heads' rank correlations."""
    device = next(generator.parameters()).device
    head: ConfidenceHead = copy.deepcopy(generator.confidence).to(device)
    optimizer = torch.optim.AdamW(head.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    stage = Stage("confidence", folder, config.budget, {"head": head, "optimizer": optimizer})
    stage.resume()
    torch.manual_seed(stage.step + 77)
    heldout = collect_benefits(generator, autoencoder, levels, validation, config.heldout_rollouts, config.frames)
    if not stage.finished:
        samples = collect_benefits(generator, autoencoder, levels, train, config.rollouts, config.frames)
        scale = samples.squared.mean(dim=0)
        for fraction in stage.steps():
            index = torch.randint(len(samples.condition), (config.batch,))
            benefit = (samples.squared[index] / scale).to(device)
            logit = read(head, samples, index, device)
            loss = gain_loss(logit, benefit)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * warm_cool(fraction, stage.step, 50)
            optimizer.step()
            stage.log(100, loss=loss.detach())
    joint = rank_correlation(heldout.logit, heldout.squared)
    with torch.no_grad():
        chunks = torch.arange(len(heldout.condition)).split(256)
        logit = torch.cat([read(head, heldout, c, device).cpu() for c in chunks])
    gain = rank_correlation(logit, heldout.squared)
    keep_gain = sum(gain) > sum(joint)
    if keep_gain:
        generator.confidence.load_state_dict(head.state_dict())
    gate: dict[str, object] = {
        "rank_correlation_joint": joint,
        "rank_correlation_gain": gain,
        "kept": "gain" if keep_gain else "joint",
    }
    stage.write(gate=gate)
    return generator, gate


def read(head: ConfidenceHead, samples: Benefits, index: Tensor, device: torch.device) -> Tensor:
    """Logits float32[n, K - 1] of the collected features."""
    taps = [t[index].to(device).float().flatten(0, 1) for t in samples.taps]
    condition = samples.condition[index].to(device).flatten(0, 1)
    return head(taps, condition).unflatten(0, (len(index), -1))
