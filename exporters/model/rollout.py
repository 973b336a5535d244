"""Rollout: a batch of sessions played forward by the few-step sampler, in torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from exporters.model.causal import C, CausalGenerator
from exporters.model.flow import add_noise, expand


@dataclass(frozen=True)
class Estimate:
    """What one denoising step of a batch gave."""

    clean: Tensor
    """float32[B, *latent_shape]: a frame's [C, h, w], or a chunk's [C, n, h, w]."""
    logit: Tensor
    """float32[B], the confidence head's output."""


Stop = Callable[[int, Estimate], Tensor]
"""(steps done, estimate) -> bool[B], True where the frame is good enough. Not asked after the last step."""


def warm_context(generator: CausalGenerator[C], clean: Tensor, action: Tensor, context: C | None = None) -> C:
    """Commit the real frames clean[B, F, *latent_shape] with the actions [B, F, A] that led to them, oldest first.

    They come after those of `context`, if there is one, which also may hold a prompt.
    """
    if context is None:
        context = generator.empty_context(clean.shape[0])
    level = clean.new_zeros(clean.shape[0])
    for i in range(clean.shape[1]):
        context = generator.commit(clean[:, i], level, action[:, i], context)
    return context


def denoise_frame(
    generator: CausalGenerator[C],
    levels: tuple[float, ...],
    action: Tensor,
    context: C,
    noise: Callable[[int], Tensor],
    stop: Stop | None = None,
) -> tuple[Tensor, Tensor, list[Estimate]]:
    """One tick of a batch.

    `noise(k)` gives the standard normal [B, *latent_shape] of step k (0-based). Returns the clean frames, the steps
    that each took int64[B], and the estimates after every step that was run. A frame that has stopped keeps its
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
        result = torch.where(expand(going, clean), clean, result)
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
    generator: CausalGenerator[C],
    levels: tuple[float, ...],
    context: C,
    action: Tensor,
    stop: Stop | None = None,
    context_level: float = 0.0,
    rng: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Play action [B, N, A]; returns latents float32[B, N, *latent_shape] and the steps taken int64[B, N]."""
    shape = (action.shape[0], *generator.latent_shape)
    frames, steps = [], []
    for i in range(action.shape[1]):
        clean, taken, _ = denoise_frame(
            generator, levels, action[:, i], context, lambda _: torch.randn(shape, generator=rng).to(action), stop
        )
        context = generator.commit(clean, clean.new_full((shape[0],), context_level), action[:, i], context)
        frames.append(clean)
        steps.append(taken)
    return torch.stack(frames, 1), torch.stack(steps, 1)
