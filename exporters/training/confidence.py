"""Stage `confidence`: heads fitted to the frozen generator, and the choice among all of them.

The distillation has trained two heads jointly with the generator, on the teacher's residual (the paper's target) and
on the gain of the remaining steps. This stage fits more of the same shape post hoc: two on the same features of the
same self-rollouts, one to each kind of target, and, where there is a perceptual distance, one to what the next step is
worth: by how much it brings the picture nearer to the recorded frame, after a recorded past (`worth_target`). All start
from the same weights, which nothing has trained.

Steps are spent for the eye, so the head is kept that ranks held-out frames best by what the next step is worth. The
distance to the full schedule's picture is no substitute: much of it is texture that re-noising redraws. Only without a
perceptual distance is it what the heads are ranked by.

Both gain heads learn that distance itself, the change of the 2x2-averaged picture. The two residual heads differ in
their target too (`targets`): the joint one has the paper's, the residual at one random noise level with the frames of a
clip as the teacher's context; the post-hoc one the mean over fixed levels, with the teacher's full cache.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata, spearmanr
from torch import Tensor

from exporters.model.autoencoder import Autoencoder
from exporters.model.confidence import ConfidenceHead, gain_loss, residual_loss, worth_loss
from exporters.model.generator import Generator
from exporters.model.lpips import PictureDistance
from exporters.training.benefit import Benefits, collect_benefits, seeded
from exporters.training.data import Clips
from exporters.training.digest import weights_digest
from exporters.training.stage import Budget, Stage, warm_cool

JOINT_RESIDUAL, JOINT_GAIN = "joint-residual", "joint-gain"
POST_HOC_RESIDUAL, POST_HOC_GAIN, POST_HOC_WORTH = "post-hoc-residual", "post-hoc-gain", "post-hoc-worth"
PERCEPTUAL = ("lpips", "none")


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
    perceptual: str = "lpips"
    """The distance to recorded frames that says what a step is worth, or "none" to go without."""
    recorded_rollouts: int = 30
    """Batches of 16 clips whose features after a recorded past are collected for the fit of the worth."""
    recorded_heldout_rollouts: int = 8
    worth_distance: float = 0.25
    """Weight of the distance to the full schedule in what the head of the worth learns, beside the worth itself."""
    worth_batch: int = 24
    """Smaller than `batch`: the worth of a step is mostly chance, and after some three passes a head learns that."""

    def __post_init__(self) -> None:
        if self.perceptual not in PERCEPTUAL:
            names = ", ".join(PERCEPTUAL)
            raise ValueError(f"confidence.perceptual: {self.perceptual!r} is none of {names}")


@dataclass(frozen=True)
class ConfidenceFit:
    """What the stage has made."""

    generator: Generator
    """With the kept head as its own."""
    heads: dict[str, ConfidenceHead]
    """All by name, in eval mode."""
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


def rank_metrics(
    samples: Benefits, logit: Tensor, deltas: Sequence[float]
) -> dict[str, list[float] | list[float | None]]:
    """How well a head's logits float32[F, K - 1] tell frames apart, per step; each step's delta in grey levels."""
    found: dict[str, list[float] | list[float | None]] = {
        "rank_correlation": rank_correlation(logit, samples.squared),
        "auroc": auroc(logit, samples.rms > torch.tensor(deltas)),
        "rank_correlation_signed": rank_correlation(logit, samples.signed),
    }
    if samples.perceptual.numel():
        found["rank_correlation_worth"] = rank_correlation(logit, samples.step_gain)
    return found


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
        POST_HOC_WORTH: f"{config.perceptual} to the recorded frame that the next step saves, with a share of"
        f" {config.worth_distance:g} of the logarithm of the {gain}, after a recorded past",
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
    perceptual: PictureDistance | None = None,
) -> ConfidenceFit:
    """Fit the post-hoc heads on `train`, compare all of them on the earlier half of `validation`.

    `gain_head` is the distillation's second head. `fresh` has the weights from which both joint heads started, and from
    which the post-hoc ones do: the few-step student's, which no stage has trained. Without `perceptual` there is no
    head of the worth. All randomness comes from torch's global generator, which the caller seeds in the same way before
    a first run and a resumed one.
    """
    device = next(generator.parameters()).device
    names = [POST_HOC_RESIDUAL, POST_HOC_GAIN] + [POST_HOC_WORTH] * (perceptual is not None)
    fitted: dict[str, ConfidenceHead] = {name: copy.deepcopy(fresh).to(device).train() for name in names}
    optimizers = {f"{name} optimizer": _optimizer(config, head) for name, head in fitted.items()}
    # Seeds of their own, so that a resumed run goes on with the samples that it had.
    heldout_seed, train_seed = torch.randint(2**31, (2,)).tolist()
    inputs = {"distillation.pt": weights_digest(generator, gain_head)}
    stage = Stage("confidence", folder, config.budget, {**fitted, **optimizers}, inputs=inputs)
    stage.resume()
    of_world: list[Any] = [generator, autoencoder, levels]
    after_past: dict[str, Any] = {"perceptual": perceptual, "recorded": True}
    earlier = validation.halves()[0]
    with seeded(heldout_seed):
        heldout = collect_benefits(*of_world, earlier, config.heldout_rollouts, config.frames)
        ranked = heldout
        if perceptual is not None:
            ranked = collect_benefits(*of_world, earlier, config.recorded_heldout_rollouts, config.frames, **after_past)
    if not stage.finished:
        with seeded(train_seed):
            judged: dict[str, Any] = {"teacher": teacher, "residual_levels": config.residual_levels}
            samples = {POST_HOC_GAIN: collect_benefits(*of_world, train, config.rollouts, config.frames, **judged)}
            samples[POST_HOC_RESIDUAL] = samples[POST_HOC_GAIN]
            if perceptual is not None:
                count = config.recorded_rollouts
                samples[POST_HOC_WORTH] = collect_benefits(*of_world, train, count, config.frames, **after_past)
        fit_heads(config, stage, fitted, list(optimizers.values()), samples, device)
    heads = {JOINT_RESIDUAL: copy.deepcopy(generator.confidence), JOINT_GAIN: gain_head.to(device), **fitted}
    delta = float(heldout.rms[:, 0].median())
    logits = {name: read_all(head.eval(), heldout, device) for name, head in heads.items()}
    metrics = {name: rank_metrics(heldout, logit, [delta] * logit.shape[1]) for name, logit in logits.items()}
    found = {name: rank_correlation(logit, heldout.squared) for name, logit in logits.items()}
    if perceptual is not None:
        for name, head in heads.items():
            found[name] = rank_correlation(read_all(head, ranked, device), ranked.step_gain)
            metrics[name]["rank_correlation_worth"] = found[name]
    kept = max(heads, key=lambda name: sum(found[name]))
    generator.confidence.load_state_dict(heads[kept].state_dict())
    told = {name: text for name, text in targets(config).items() if name in heads}
    ranked_by = "rank_correlation" if perceptual is None else "rank_correlation_worth"
    gate: dict[str, object] = {
        "kept": kept, "kept_by": ranked_by, "delta": delta, "heads": metrics, "targets": told
    }  # fmt: skip
    stage.write(gate=gate)
    return ConfidenceFit(generator, heads, kept, gate)


def _optimizer(config: ConfidenceTraining, head: ConfidenceHead) -> torch.optim.AdamW:
    return torch.optim.AdamW(head.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)


def fit_heads(
    config: ConfidenceTraining,
    stage: Stage,
    heads: dict[str, ConfidenceHead],
    optimizers: Sequence[torch.optim.Optimizer],
    samples: dict[str, Benefits],
    device: torch.device,
) -> None:
    """Run the stage: every post-hoc head by its own loss; those of the same samples on the same minibatches."""
    rolled, after_past = samples[POST_HOC_GAIN], samples.get(POST_HOC_WORTH)
    # Both targets have mean 1 at every step; the residual also at every level, or the noisiest would be all of it.
    gains = rolled.squared / rolled.squared.mean(dim=0)
    residuals = (rolled.residual / rolled.residual.mean(dim=0)).mean(dim=2)
    worths = None if after_past is None else worth_target(after_past, config.worth_distance)
    for fraction in stage.steps():
        index = torch.randint(len(rolled.condition), (config.batch,))
        gain_logit = read(heads[POST_HOC_GAIN], rolled, index, device)
        losses = {"gain": gain_loss(gain_logit, gains[index].to(device)).mean()}
        residual_logit = read(heads[POST_HOC_RESIDUAL], rolled, index, device)
        residual = residual_loss(residual_logit, residuals[index].to(device), config.residual_balance)
        losses["residual"] = residual.mean()
        if after_past is not None and worths is not None:
            index = torch.randint(len(after_past.condition), (config.worth_batch,))
            worth_logit = read(heads[POST_HOC_WORTH], after_past, index, device)
            losses["worth"] = worth_loss(worth_logit, worths[index].to(device)).mean()
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        for head in heads.values():
            torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * warm_cool(fraction, stage.step, 50)
            optimizer.step()
        stage.log(100, **{name: loss.detach() for name, loss in losses.items()})


def worth_target(samples: Benefits, share: float) -> Tensor:
    """float32[F, K - 1]: what the next step saves and, with weight `share`, the logarithm of the distance that is left.

    The distance is far less noisy. Without it the head tells so little of how far a frame is from the full schedule's
    that the confidence, and every promise about that distance, would have little to go by.
    """
    return standardised(standardised(samples.step_gain) + share * standardised((samples.rms + 0.1).log()))


def standardised(values: Tensor) -> Tensor:
    """Mean 0 and variance 1 at every step [F, K - 1]: later steps are worth less, and shall be told apart as well."""
    return (values - values.mean(dim=0)) / values.std(dim=0).clamp_min(1e-12)


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
