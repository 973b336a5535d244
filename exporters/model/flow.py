"""Flow matching: noise levels, noising, preconditioning and the few-step sampler's renoising.

Convention (rectified flow, as Wan2.1 and Self-Forcing): x_t = (1 - t) * x_0 + t * noise, velocity v = noise - x_0.
"""

from __future__ import annotations

import torch
from torch import Tensor


def shift_level(level: Tensor | float, shift: float) -> Tensor | float:
    """Move levels in [0, 1] towards noise: shift * t / (1 + (shift - 1) * t)."""
    return shift * level / (1.0 + (shift - 1.0) * level)


def schedule_levels(steps: int, shift: float) -> tuple[float, ...]:
    """The noise levels t_1 = 1 > ... > t_K of `steps` denoising steps; shift 5, K 4: 1, .9375, .8333, .625."""
    return tuple(float(shift_level(1.0 - k / steps, shift)) for k in range(steps))


def sample_levels(shape: tuple[int, ...], shift: float, generator: torch.Generator | None = None) -> Tensor:
    """Logit-normal levels moved by `shift`, with 10 % uniform ones so that no level is starved."""
    normal = torch.sigmoid(torch.randn(shape, generator=generator))
    uniform = torch.rand(shape, generator=generator)
    level = torch.where(torch.rand(shape, generator=generator) < 0.1, uniform, shift_level(normal, shift))
    return level.clamp(0.001, 1.0)


def expand(level: Tensor, like: Tensor) -> Tensor:
    """Append singleton axes to `level` until it broadcasts against `like`."""
    return level.reshape(level.shape + (1,) * (like.dim() - level.dim()))


def add_noise(clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """x_t at `level` (shape: the leading axes of `clean`)."""
    t = expand(level, clean)
    return (1.0 - t) * clean + t * noise


def precondition(level: Tensor) -> tuple[Tensor, Tensor]:
    """(skip, out) such that clean = skip * x_t + out * network has a unit-variance target at every level.

    EDM's preconditioning (Karras et al. 2022, eq. 7) for unit-variance data under the linear path; skip(0) = 1 and
    out(0) = 0 is also the boundary condition that a consistency model needs.
    """
    power = (1.0 - level) ** 2 + level**2
    return (1.0 - level) / power, level / power.sqrt()


def velocity(noisy: Tensor, clean: Tensor, level: Tensor) -> Tensor:
    """The velocity (x_t - x_0) / t that belongs to a clean estimate."""
    return (noisy - clean) / expand(level, noisy)


def euler_step(noisy: Tensor, clean: Tensor, level: Tensor, lower: Tensor) -> Tensor:
    """Follow the probability-flow ODE from `level` down to `lower` with one Euler step."""
    return noisy + expand(lower - level, noisy) * velocity(noisy, clean, level)
