"""Stage `confidence`: two heads fitted to the frozen generator, and the choice among all four.

The distillation has trained two heads jointly with the generator, on the teacher's residual (the paper's target) and
on the gain of the remaining steps. This stage fits two more of the same shape post hoc, both on the same features of
the same self-rollouts, one to each kind of target. All four start from the same weights, which nothing has trained. The
head that ranks the frames of held-out rollouts best by their true benefit is kept.

Both gain heads learn that benefit itself, the change of the 2x2-averaged picture. The two residual heads differ in
their target too (`targets`): the joint one has the paper's, the residual at one random noise level with the frames of a
clip as the teacher's context; the post-hoc one the mean over fixed levels, with the teacher's full cache.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from scipy.stats import rankdata, spearmanr
from torch import Tensor

from exporters.model.autoencoder import Autoencoder
from exporters.model.confidence import ConfidenceHead, gain_loss, residual_loss
from exporters.model.generator import Generator
from exporters.training.benefit import Benefits, collect_benefits, seeded
from exporters.training.data import Clips
from exporters.training.digest import weights_digest
from exporters.training.stage import Budget, Stage, warm_cool

JOINT_RESIDUAL, JOINT_GAIN = "joint-residual", "joint-gain"
POST_HOC_RESIDUAL, POST_HOC_GAIN = "post-hoc-residual", "post-hoc-gain"


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
    residual_levels: tuple[float, ...] = (0.3, 0.5, 0.7)
    """Noise levels to which an estimate is brought back for the teacher to judge it."""
    residual_balance: float = 0.5
    """lambda of the residual's loss c * d - lambda * log c, with d of mean 1."""


@dataclass(frozen=True)
class ConfidenceFit:
    """What the stage has made."""

    generator: Generator
    """With the kept head as its own."""
    heads: dict[str, ConfidenceHead]
    """All four by name, in eval mode."""
    kept: str
    gate: dict[str, object]


def rank_correlation(logit: Tensor, target: Tensor) -> list[float]:
    """Spearman correlation of -logit with what is left to gain, one per step [F, K - 1]: 1 ranks frames perfectly.

    0 knows nothing; a head that says the same of all frames knows nothing either. Frames without a target are left out.
    """
    correlations = []
    for doubt, value in zip((-logit).double().numpy().T, target.double().numpy().T, strict=True):
        known = np.isfinite(value)
        doubt, value = doubt[known], value[known]
        told_apart = len(value) > 1 and np.ptp(doubt) > 0 and np.ptp(value) > 0
        correlations.append(float(spearmanr(doubt, value).statistic) if told_apart else 0.0)
    return correlations


def auroc(logit: Tensor, positive: Tensor) -> list[float | None]:
    """Chance, per step, that a frame in `positive` (bool[F, K - 1]) has a lower logit than one that is not.

    None where all frames are on one side.
    """
    areas: list[float | None] = []
    for doubt, inside in zip((-logit).double().numpy().T, positive.numpy().T, strict=True):
        count = int(inside.sum())
        pairs = count * (len(inside) - count)
        above = rankdata(doubt)[inside].sum() - count * (count + 1) / 2
        areas.append(float(above / pairs) if pairs else None)
    return areas


def rank_metrics(samples: Benefits, logit: Tensor, delta: float) -> dict[str, list[float] | list[float | None]]:
    """How well a head's logits float32[F, K - 1] tell frames apart, per step; `delta` in grey levels."""
    return {
        "rank_correlation": rank_correlation(logit, samples.squared),
        "auroc": auroc(logit, samples.rms > delta),
        "rank_correlation_signed": rank_correlation(logit, samples.signed),
    }


def targets(config: ConfidenceTraining) -> dict[str, str]:
    """What each head has learned, in words, for the gate: what a comparison of heads has to be read with."""
    gain = "change of the 2x2-averaged picture by the remaining steps"
    residual = "squared distance in latents to the teacher's estimate"
    levels = ", ".join(str(level) for level in config.residual_levels)
    return {
        JOINT_RESIDUAL: f"{residual}, at one random noise level, a clip as context",
        JOINT_GAIN: gain,
        POST_HOC_RESIDUAL: f"{residual}, mean over noise levels {levels}, the full cache as context",
        POST_HOC_GAIN: gain,
    }


def train_confidence(
    config: ConfidenceTraining,
    levels: tuple[float, ...],
    folder: Path,
    generator: Generator,
    gain_head: ConfidenceHead,
    fresh: ConfidenceHead,
    teacher: Generator,
    autoencoder: Autoencoder,
    train: Clips,
    validation: Clips,
) -> ConfidenceFit:
    """Fit the post-hoc heads on `train`, compare all four on the earlier half of `validation`.

    `gain_head` is the distillation's second head. `fresh` has the weights from which both joint heads started, and from
    which the post-hoc ones do: the few-step student's, which no stage has trained. All randomness comes from torch's
    global generator, which the caller seeds in the same way before a first run and a resumed one.
    """
    device = next(generator.parameters()).device
    fitted: dict[str, ConfidenceHead] = {
        name: copy.deepcopy(fresh).to(device).train() for name in (POST_HOC_RESIDUAL, POST_HOC_GAIN)
    }
    optimizer = torch.optim.AdamW(
        [p for head in fitted.values() for p in head.parameters()],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
    )
    # Seeds of their own, so that a resumed run goes on with the samples that it had.
    heldout_seed, train_seed = torch.randint(2**31, (2,)).tolist()
    inputs = {"distillation.pt": weights_digest(generator, gain_head)}
    stage = Stage("confidence", folder, config.budget, {**fitted, "optimizer": optimizer}, inputs=inputs)
    stage.resume()
    with seeded(heldout_seed):
        earlier = validation.halves()[0]
        heldout = collect_benefits(generator, autoencoder, levels, earlier, config.heldout_rollouts, config.frames)
    if not stage.finished:
        with seeded(train_seed):
            samples = collect_benefits(
                generator,
                autoencoder,
                levels,
                train,
                config.rollouts,
                config.frames,
                teacher=teacher,
                residual_levels=config.residual_levels,
            )
        fit_heads(config, stage, fitted, optimizer, samples, device)
    heads = {JOINT_RESIDUAL: copy.deepcopy(generator.confidence), JOINT_GAIN: gain_head.to(device), **fitted}
    delta = float(heldout.rms[:, 0].median())
    logits = {name: read_all(head.eval(), heldout, device) for name, head in heads.items()}
    metrics = {name: rank_metrics(heldout, logit, delta) for name, logit in logits.items()}
    kept = max(heads, key=lambda name: sum(rank_correlation(logits[name], heldout.squared)))
    generator.confidence.load_state_dict(heads[kept].state_dict())
    gate: dict[str, object] = {"kept": kept, "delta": delta, "heads": metrics, "targets": targets(config)}
    stage.write(gate=gate)
    return ConfidenceFit(generator, heads, kept, gate)


def fit_heads(
    config: ConfidenceTraining,
    stage: Stage,
    heads: dict[str, ConfidenceHead],
    optimizer: torch.optim.AdamW,
    samples: Benefits,
    device: torch.device,
) -> None:
    """Run the stage: both post-hoc heads on the same minibatches, each by its own loss."""
    # Both targets have mean 1 at every step; the residual also at every level, or the noisiest would be all of it.
    gains = samples.squared / samples.squared.mean(dim=0)
    residuals = (samples.residual / samples.residual.mean(dim=0)).mean(dim=2)
    for fraction in stage.steps():
        index = torch.randint(len(samples.condition), (config.batch,))
        gain_logit = read(heads[POST_HOC_GAIN], samples, index, device)
        gain = gain_loss(gain_logit, gains[index].to(device)).mean()
        residual_logit = read(heads[POST_HOC_RESIDUAL], samples, index, device)
        residual = residual_loss(residual_logit, residuals[index].to(device), config.residual_balance).mean()
        optimizer.zero_grad(set_to_none=True)
        (gain + residual).backward()
        for head in heads.values():
            torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * warm_cool(fraction, stage.step, 50)
        optimizer.step()
        stage.log(100, gain=gain.detach(), residual=residual.detach())


def read(head: ConfidenceHead, samples: Benefits, index: Tensor, device: torch.device) -> Tensor:
    """Logits float32[n, K - 1] of the collected features."""
    taps = [t[index].to(device).float().flatten(0, 1) for t in samples.taps]
    condition = samples.condition[index].to(device).flatten(0, 1)
    return head(taps, condition).unflatten(0, (len(index), -1))


@torch.no_grad()
def read_all(head: ConfidenceHead, samples: Benefits, device: torch.device) -> Tensor:
    """Logits float32[F, K - 1] of all collected features."""
    chunks = torch.arange(len(samples.condition)).split(256)
    return torch.cat([read(head, samples, chunk, device).cpu() for chunk in chunks])
