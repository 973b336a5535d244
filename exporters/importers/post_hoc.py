"""A confidence head for a frozen generator that others have trained: fitted to self-rollouts, calibrated, written.

The head learns the gain of going on, as the game worlds' does (`exporters.training.confidence`): how far a chunk's
estimate is from what the full schedule makes of it. It is judged and calibrated on rollouts of prompts, where there are
enough of them, that it was not fitted to.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from exporters.importers.latent_benefit import UNIT, LatentBenefits, collect_latent_benefits
from exporters.model.confidence import ConfidenceHead, gain_loss
from exporters.model.wan.generator import WanGenerator
from exporters.training.benefit import OWN, seeded
from exporters.training.calibration import calibrate, reliability, step_deltas
from exporters.training.confidence import auroc, rank_correlation, read
from exporters.training.stage import warm_cool


@dataclass(frozen=True)
class PostHocTraining:
    """Settings of a post-hoc head."""

    rollouts: int = 64
    """Self-rollouts whose features are collected for the fit."""
    heldout_rollouts: int = 32
    """Half of them for the calibration, half for its check."""
    chunks: int = 7
    """Ticks of a rollout: the length that Self-Forcing was trained for."""
    batch: int = 1
    """Rollouts that are played at once."""
    tokens: int = 256
    """Random tokens of a chunk that the head is fitted on; it is judged, and used, on all of them."""
    steps: int = 800
    minibatch: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    target_steps: float = 2.0
    """The default threshold is the one that takes this many steps on average."""
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"rollouts": 1, "heldout_rollouts": 2, "chunks": 1, "batch": 1, "tokens": 1, "steps": 1, "minibatch": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name}: must be at least {value}, got {getattr(self, name)}")


@dataclass(frozen=True)
class PostHocFit:
    """A fitted head and what is known of it."""

    head: ConfidenceHead
    calibration: dict[str, Any]
    """As the calibration stage makes it, in units of `UNIT`; a world package takes it."""
    gate: dict[str, Any]
    """On held-out rollouts: rank correlation with the gain per step, AUROC, reliability, mean steps by the
    threshold; and how many prompts each part had."""


def train_post_hoc(
    config: PostHocTraining, levels: tuple[float, ...], generator: WanGenerator, prompts: Tensor | None
) -> PostHocFit:
    """Fit the generator's own head, from its present weights, and calibrate it. The transformer stays as it is.

    prompts [N, L, width]; None for an unconditioned model. A quarter of them is held out, where there are four or more;
    of fewer, the held-out rollouts differ in their noise alone, and the gate says so.
    """
    if len(levels) < 2:
        raise ValueError(f"levels: with {len(levels)} there is no step after which to stop")
    head = generator.confidence
    fitted_on, held_out = split_prompts(prompts)
    with seeded(config.seed):
        samples = collect_latent_benefits(
            generator, levels, fitted_on, config.rollouts, config.chunks, config.batch, keep_tokens=config.tokens
        )
        fit(config, head, samples)
        heldout = collect_latent_benefits(
            generator, levels, held_out, config.heldout_rollouts, config.chunks, config.batch, head=head
        )
    half = config.heldout_rollouts // 2 * config.chunks
    calibrated, checked = part(heldout, slice(0, half)), part(heldout, slice(half, None))
    calibration = calibrate(calibrated, config.target_steps) | {"delta_unit": UNIT}
    logit = heldout.logits[OWN]
    gate = {
        "rank_correlation": rank_correlation(logit, heldout.squared),
        "auroc": auroc(logit, heldout.rms > torch.tensor(step_deltas(calibration))),
        "reliability": reliability(checked, calibration),
        "chunks": {"fit": len(samples.squared), "heldout": len(heldout.squared)},
        "prompts": {
            "fit": _count(fitted_on),
            "heldout": _count(held_out),
            "heldout_are_others": held_out is not prompts,
        },
        "settings": asdict(config),
    }
    return PostHocFit(head, calibration, gate)


def split_prompts(prompts: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """For the fit and held out: three quarters and the last one, or twice all of fewer than four."""
    if prompts is None or len(prompts) < 4:
        return prompts, prompts
    cut = len(prompts) - len(prompts) // 4
    return prompts[:cut], prompts[cut:]


def part(samples: LatentBenefits, rows: slice) -> LatentBenefits:
    """Some of the samples, without their features."""
    logits = {name: logit[rows] for name, logit in samples.logits.items()}
    return LatentBenefits([], samples.condition[rows], samples.squared[rows], logits)


def fit(config: PostHocTraining, head: ConfidenceHead, samples: LatentBenefits) -> None:
    """Train the head on collected features; torch's global generator picks the minibatches."""
    device = next(head.parameters()).device
    gains = samples.squared / samples.squared.mean(dim=0)  # of mean 1 at every step, as the loss wants it
    optimizer = torch.optim.AdamW(head.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    head.train().requires_grad_(True)
    for step in tqdm(range(config.steps), desc="confidence", unit="step", mininterval=5.0):
        index = torch.randint(len(gains), (config.minibatch,))
        loss = gain_loss(read(head, samples, index, device), gains[index].to(device)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * warm_cool(step / config.steps, step, 50)
        optimizer.step()
    head.eval().requires_grad_(False)


def _count(prompts: Tensor | None) -> int:
    return 0 if prompts is None else len(prompts)
