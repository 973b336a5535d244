"""Rollout: a batch of sessions played forward by the few-step sampler, in torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from exporters.model.flow import add_noise
from exporters.model.generator import Context, Generator


@dataclass(frozen=True)
class Estimate:
    """What one denoising step of a batch gave."""

    clean: Tensor
    """float32[B, C, h, w]."""
    logit: Tensor
    """float32[B], the confidence head's output."""


Stop = Callable[[int, Estimate], Tensor]
"""(steps done, estimate) -> bool[B], True where the frame is good enough. Not asked after the last step."""


def warm_context(generator: Generator, clean: Tensor, action: Tensor) -> Context:
    """Commit the real frames clean[B, F, C, h, w] with the actions [B, F, A] that led to them, oldest first."""
    context = generator.empty_context(clean.shape[0])
    level = clean.new_zeros(clean.shape[0])
    for i in range(clean.shape[1]):
        context = generator.commit(clean[:, i], level, action[:, i], context)
    return context


def denoise_frame(
    generator: Generator,
    levels: tuple[float, ...],
    action: Tensor,
    context: Context,
    noise: Callable[[int], Tensor],
    stop: Stop | None = None,
) -> tuple[Tensor, Tensor, list[Estimate]]:
    """One tick of a batch.

    `noise(k)` gives the standard normal [B, C, h, w] of step k (0-based). Returns the clean frames [B, C, h, w], the
    steps that each took int64[B], and the estimates after every step that was run. A frame that has stopped keeps its
    estimate; the batch runs on until all have stopped.
    """
    batch = action.shape[0]
    estimates: list[Estimate] = []
    x = noise(0)
    result = torch.zeros_like(x)
    steps = torch.full((batch,), len(levels), dtype=torch.long, device=x.device)
    going = torch.ones(batch, dtype=torch.bool, device=x.device)
    for k, value in enumerate(levels):
        level = x.new_full((batch,), value)
        if k > 0:
            x = add_noise(estimates[-1].clean, noise(k), level)
        clean, taps, condition = generator.denoise(x, level, action, context)
        estimates.append(Estimate(clean, generator.confidence(taps, condition)))
        result = torch.where(going[:, None, None, None], clean, result)
        if k + 1 == len(levels):
            break
        if stop is not None:
            done = going & stop(k + 1, estimates[-1])
            steps = torch.where(done, k + 1, steps)
            going = going & ~done
            if not going.any():
                break
    return result, steps, estimates


@torch.no_grad()
def rollout(
    generator: Generator,
    levels: tuple[float, ...],
    context: Context,
    action: Tensor,
    stop: Stop | None = None,
    context_level: float = 0.0,
    rng: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Play action [B, N, A]; returns latents float32[B, N, C, h, w] and the steps taken int64[B, N]."""
    c = generator.config
    shape = (action.shape[0], c.latent_channels, c.latent_height, c.latent_width)
    frames, steps = [], []
    for i in range(action.shape[1]):
        clean, taken, _ = denoise_frame(
            generator, levels, action[:, i], context, lambda _: torch.randn(shape, generator=rng).to(action), stop
        )
        context = generator.commit(clean, clean.new_full((shape[0],), context_level), action[:, i], context)
        frames.append(clean)
        steps.append(taken)
    return torch.stack(frames, 1), torch.stack(steps, 1)
