"""Benefit: what the remaining denoising steps would still change, measured on self-rollouts.

For every frame the full schedule is run with one set of noises; the frame that is committed is the estimate after a
random exit step, so that the contexts are of mixed quality, as at play.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from exporters.model.autoencoder import Autoencoder
from exporters.model.flow import add_noise
from exporters.model.generator import Generator
from exporters.model.rollout import warm_context
from exporters.training.data import Clips


@dataclass
class Benefits:
    """Samples of all steps but the last; F frames, K steps.

    taps: per tapped block float16[F, K - 1, T, dim]; condition float32[F, K - 1, dim].
    squared: float32[F, K - 1], mean squared difference to the full-schedule picture, both 2x2-averaged, range [-1, 1]:
    averaging ignores texture that re-noising merely redraws.
    rms: float32[F, K - 1], root mean square difference of the same pictures in grey levels of 255.
    logit: float32[F, K - 1] of the generator's own head.
    """

    taps: list[Tensor]
    condition: Tensor
    squared: Tensor
    logit: Tensor

    @property
    def rms(self) -> Tensor:
        return self.squared.sqrt() * 127.5


def pooled(autoencoder: Autoencoder, latent: Tensor) -> Tensor:
    """Decode, clamp and average 2x2: what two pictures are compared by. [B, C, h, w] -> [B, 3, 4h, 4w]."""
    return F.avg_pool2d(autoencoder.decode(latent).clamp(-1, 1), 2)


@torch.no_grad()
def collect_benefits(
    generator: Generator,
    autoencoder: Autoencoder,
    levels: tuple[float, ...],
    clips: Clips,
    rollouts: int,
    frames: int,
    batch: int = 16,
    keep_taps: bool = True,
) -> Benefits:
    """Play `rollouts` batches of `frames` frames from real contexts with real actions; torch's global generator."""
    device = next(generator.parameters()).device
    window, k_all = generator.config.window, len(levels)
    taps_out: list[list[Tensor]] = [[] for _ in generator.config.taps]
    conditions, squares, logits = [], [], []
    for _ in tqdm(range(rollouts), desc="benefits", unit="rollout", mininterval=5.0):
        length = window + frames
        real, action = (x.to(device) for x in clips.windows(clips.sample_starts(batch, length), length))
        context = warm_context(generator, real[:, :window], action[:, :window])
        for i in range(frames):
            act, x = action[:, window + i], torch.randn_like(real[:, 0])
            steps: list[tuple[Tensor, list[Tensor], Tensor]] = []
            for k, value in enumerate(levels):
                level = x.new_full((batch,), value)
                if k > 0:
                    x = add_noise(steps[-1][0], torch.randn_like(x), level)
                steps.append(generator.denoise(x, level, act, context))
            final = pooled(autoencoder, steps[-1][0])
            gaps = [(pooled(autoencoder, s[0]) - final).square().mean(dim=(1, 2, 3)) for s in steps[:-1]]
            squares.append(torch.stack(gaps, 1).cpu())
            logits.append(torch.stack([generator.confidence(s[1], s[2]) for s in steps[:-1]], 1).cpu())
            conditions.append(torch.stack([s[2] for s in steps[:-1]], 1).cpu())
            if keep_taps:
                for j, out in enumerate(taps_out):
                    out.append(torch.stack([s[1][j] for s in steps[:-1]], 1).half().cpu())
            exits = torch.randint(k_all, (batch,), device=device)
            chosen = torch.stack([s[0] for s in steps], 1)[torch.arange(batch, device=device), exits]
            context = generator.commit(chosen, x.new_zeros(batch), act, context)
    return Benefits(
        [torch.cat(t) for t in taps_out] if keep_taps else [],
        torch.cat(conditions),
        torch.cat(squares),
        torch.cat(logits),
    )
