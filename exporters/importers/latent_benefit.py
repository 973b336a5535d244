"""What the remaining denoising steps would still change in a chunk of latents, on self-rollouts of a frozen generator.

As `exporters.training.benefit`, for models without recordings and, maybe, without a decoder at hand: contexts are the
model's own chunks from the first one on, each left after a random step, and the distance is that of the latents.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from exporters.model.confidence import ConfidenceHead
from exporters.model.flow import add_noise
from exporters.model.wan.context import WanContext
from exporters.model.wan.generator import WanGenerator
from exporters.training.benefit import OWN, Benefits, mean_square

UNIT = "root mean square difference of latents"


@dataclass
class LatentBenefits(Benefits):
    """`squared` is the mean squared difference to the full schedule's latents; `rms` is its root, see `UNIT`.

    taps hold what was kept of a chunk's tokens. There is no recorded video, so `signed` and `perceptual` stay empty.
    """

    @property
    def rms(self) -> Tensor:
        return self.squared.sqrt()


@torch.no_grad()
def collect_latent_benefits(
    generator: WanGenerator,
    levels: tuple[float, ...],
    prompts: Tensor | None,
    rollouts: int,
    chunks: int,
    batch: int = 1,
    keep_tokens: int = 0,
    head: ConfidenceHead | None = None,
) -> LatentBenefits:
    """Play `rollouts` rollouts of `chunks` chunks, `batch` at a time; prompts [N, L, width] take turns.

    keep_tokens   so many random tokens of a chunk are kept as its taps. A head's pooling is a weighted mean over
                  tokens, which some of them estimate; all of a full-size chunk's would be 43 MB per step.
    head          whose logits are wanted, on all tokens

    The samples are in the order of the rollouts. All randomness comes from torch's global generator.
    """
    device = next(generator.parameters()).device
    parts = []
    for start in tqdm(range(0, rollouts, batch), desc="self-rollouts", unit="batch", mininterval=5.0):
        sessions = min(batch, rollouts - start)
        prompt = None
        if prompts is not None:
            turn = torch.arange(start, start + sessions) % len(prompts)
            prompt = generator.transformer.prompt(prompts[turn].to(device))
        context = generator.empty_context(sessions, prompt)
        action = torch.zeros(sessions, 0, device=device)
        played = []
        for _ in range(chunks):
            kept = torch.randperm(generator.config.tokens)[:keep_tokens]
            sample, chosen = _play_chunk(generator, levels, action, context, kept, head)
            context = generator.commit(chosen, chosen.new_zeros(sessions), action, context)
            played.append(sample)
        parts.append([torch.stack(same, 1).flatten(0, 1) for same in zip(*played, strict=True)])
    condition, squared, *rest = (torch.cat(same) for same in zip(*parts, strict=True))
    logits, taps = (rest[:1], rest[1:]) if head is not None else ([], rest)
    return LatentBenefits(taps, condition, squared, dict(zip([OWN], logits, strict=False)))


def _play_chunk(
    generator: WanGenerator,
    levels: tuple[float, ...],
    action: Tensor,
    context: WanContext,
    kept: Tensor,
    head: ConfidenceHead | None,
) -> tuple[list[Tensor], Tensor]:
    """Of one chunk [B, K - 1, ...]: conditions, squares, logits if there is a head, taps; and what is to be committed:
    the estimate after a random step."""
    sessions, device = len(action), action.device
    x = torch.randn(sessions, *generator.latent_shape, device=device)
    steps: list[Tensor] = []
    features: list[list[Tensor]] = []
    for k, value in enumerate(levels):
        level = x.new_full((sessions,), value)
        if k > 0:
            x = add_noise(steps[-1], torch.randn_like(x), level)
        clean, taps, condition = generator.denoise(x, level, action, context)
        steps.append(clean)
        if k + 1 < len(levels):
            said = [] if head is None else [head(taps, condition)]
            features.append(
                [*(y.cpu() for y in (condition, *said)), *(y[:, kept.to(device)].half().cpu() for y in taps)]
            )
    condition, *others = (torch.stack(same, 1) for same in zip(*features, strict=True))
    squares = torch.stack([mean_square(clean - steps[-1]) for clean in steps[:-1]], 1).cpu()
    exits = torch.randint(len(levels), (sessions,), device=device)
    chosen = torch.stack(steps, 1)[torch.arange(sessions, device=device), exits]
    return [condition, squares, *others], chosen
