"""Benefit: what the remaining denoising steps would still change, measured on self-rollouts or after a recorded past.

For every frame the full schedule is run with one set of noises. In a self-rollout the frame that is committed is the
estimate after a random exit step, so that the contexts are of mixed quality, as at play. After a recorded past every
frame has a recorded one that it should have been, and a perceptual distance to it tells what each step brings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from exporters.model.autoencoder import Autoencoder, pictures_to_float, pictures_to_uint8
from exporters.model.confidence import ConfidenceHead
from exporters.model.flow import add_noise
from exporters.model.generator import Context, Generator
from exporters.model.lpips import PictureDistance
from exporters.model.rollout import warm_context
from exporters.training.data import Clips

OWN = "own"
"""Name of the generator's own head among the logits."""
GREY = 127.5
"""Grey levels of 255 in a difference of 1 between pictures in [-1, 1]."""
REAL_FRAMES = 4
"""First frames of a self-rollout that are compared with the recorded ones; after that it has gone its own way."""
PERCEPTUAL_BATCH = 256
"""Pictures whose perceptual distance is asked for at once."""


@dataclass
class Benefits:
    """Samples of all steps but the last; F frames, K steps.

    taps: per tapped block float16[F, K - 1, T, dim]; condition float32[F, K - 1, dim].
    squared: float32[F, K - 1], mean squared difference to the full-schedule picture, both 2x2-averaged, range [-1, 1]:
    averaging ignores texture that re-noising merely redraws.
    rms: float32[F, K - 1], root mean square difference of the same pictures in grey levels of 255.
    logits: float32[F, K - 1] by name of the head; `OWN` is the generator's.
    signed: float32[F, K - 1], by how many grey levels the remaining steps bring the picture nearer to the recorded one
    (negative: away from it); NaN after the first `REAL_FRAMES` frames of a self-rollout.
    residual: float32[F, K - 1, L], mean squared distance in latents between the estimate and what the teacher makes of
    it after re-noising to one of L levels; empty without a teacher.
    perceptual: float32[F, K], distance of every step's picture to the recorded frame; NaN where `signed` is. Empty
    without a perceptual distance.
    """

    taps: list[Tensor]
    condition: Tensor
    squared: Tensor
    logits: dict[str, Tensor]
    signed: Tensor = field(default_factory=lambda: torch.empty(0))
    residual: Tensor = field(default_factory=lambda: torch.empty(0))
    perceptual: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def rms(self) -> Tensor:
        return self.squared.sqrt() * GREY

    @property
    def step_gain(self) -> Tensor:
        """float32[F, K - 1]: by how much the next step brings the picture perceptually nearer to the recorded frame."""
        return self.perceptual[:, :-1] - self.perceptual[:, 1:]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's global generators start from `seed` inside the block, and go on after it as if it had not been."""
    device = [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=device):
        torch.manual_seed(seed)
        yield


def pooled(autoencoder: Autoencoder, latent: Tensor) -> Tensor:
    """Decode, clamp and average 2x2: what two pictures are compared by. [B, C, h, w] -> [B, 3, 4h, 4w]."""
    return halved(autoencoder.decode(latent))


def halved(picture: Tensor) -> Tensor:
    """Clamp and average 2x2. [B, 3, H, W] -> [B, 3, H / 2, W / 2]."""
    return F.avg_pool2d(picture.clamp(-1, 1), 2)


def mean_square(difference: Tensor) -> Tensor:
    """[B, ...] -> [B]."""
    return difference.square().flatten(1).mean(dim=1)


def picture_distance(autoencoder: Autoencoder, one: Tensor, other: Tensor) -> Tensor:
    """The `squared` of `Benefits` between two latents [B, C, h, w] -> float32[B]."""
    return mean_square(pooled(autoencoder, one) - pooled(autoencoder, other))


def teacher_residual(
    teacher: Generator, clean: Tensor, levels: Sequence[float], action: Tensor, context: Context
) -> Tensor:
    """float32[B, L]: how far the teacher moves the estimate [B, C, h, w] after re-noising it to each level."""
    distances = []
    for value in levels:
        level = clean.new_full((len(clean),), value)
        estimate, _, _ = teacher.denoise(add_noise(clean, torch.randn_like(clean), level), level, action, context)
        distances.append(mean_square(clean - estimate))
    return torch.stack(distances, 1)


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
    heads: Mapping[str, ConfidenceHead] | None = None,
    teacher: Generator | None = None,
    residual_levels: Sequence[float] = (),
    perceptual: PictureDistance | None = None,
    recorded: bool = False,
) -> Benefits:
    """Play `rollouts` batches of `frames` frames from real contexts with real actions; torch's global generator.

    heads       whose logits are wanted besides the generator's own
    teacher     whose residual is wanted at `residual_levels`; it sees the same frames in its context
    perceptual  the distance to the recorded frames that is wanted of every step's picture
    recorded    commit the recorded frames instead of the generated ones: every frame has a recorded past
    """
    device = next(generator.parameters()).device
    window, k_all = generator.config.window, len(levels)
    asked: dict[str, ConfidenceHead] = {OWN: generator.confidence, **(heads or {})}
    taps_out: list[list[Tensor]] = [[] for _ in generator.config.taps]
    conditions, squares, signs, residuals, distances = [], [], [], [], []
    logits: dict[str, list[Tensor]] = {name: [] for name in asked}
    for _ in tqdm(range(rollouts), desc="benefits", unit="rollout", mininterval=5.0):
        starts = clips.sample_starts(batch, window + frames)
        real, action = (x.to(device) for x in clips.windows(starts, window + frames))
        context = warm_context(generator, real[:, :window], action[:, :window])
        teacher_context = warm_context(teacher, real[:, :window], action[:, :window]) if teacher is not None else None
        shown: list[tuple[Tensor, Tensor]] = []
        for i in range(frames):
            act, x = action[:, window + i], torch.randn_like(real[:, 0])
            steps: list[tuple[Tensor, list[Tensor], Tensor]] = []
            for k, value in enumerate(levels):
                level = x.new_full((batch,), value)
                if k > 0:
                    x = add_noise(steps[-1][0], torch.randn_like(x), level)
                steps.append(generator.denoise(x, level, act, context))
            early = steps[:-1]
            decoded = [autoencoder.decode(s[0]) for s in steps]
            pictures = [halved(picture) for picture in decoded]
            squares.append(torch.stack([mean_square(p - pictures[-1]) for p in pictures[:-1]], 1).cpu())
            if recorded or i < REAL_FRAMES:
                truth = clips.frames[starts + window + i]
                half = F.avg_pool2d(pictures_to_float(truth).to(device), 2)
                errors = torch.stack([mean_square(p - half).sqrt() * GREY for p in pictures], 1)
                signs.append((errors[:, :-1] - errors[:, -1:]).cpu())
                shown.append((truth, torch.stack([pictures_to_uint8(p).cpu() for p in decoded], 1)))
            else:
                signs.append(torch.full_like(squares[-1], torch.nan))
            for name, head in asked.items():
                logits[name].append(torch.stack([head(s[1], s[2]) for s in early], 1).cpu())
            conditions.append(torch.stack([s[2] for s in early], 1).cpu())
            if keep_taps:
                for j, out in enumerate(taps_out):
                    out.append(torch.stack([s[1][j] for s in early], 1).half().cpu())
            if recorded:
                chosen = real[:, window + i]
            else:
                exits = torch.randint(k_all, (batch,), device=device)
                chosen = torch.stack([s[0] for s in steps], 1)[torch.arange(batch, device=device), exits]
            if teacher is not None and teacher_context is not None:
                moved = [teacher_residual(teacher, s[0], residual_levels, act, teacher_context) for s in early]
                residuals.append(torch.stack(moved, 1).cpu())
                teacher_context = teacher.commit(chosen, x.new_zeros(batch), act, teacher_context)
            context = generator.commit(chosen, x.new_zeros(batch), act, context)
        if perceptual is not None:
            found = perceptual_distances(perceptual, *(torch.cat(parts) for parts in zip(*shown, strict=True)))
            unknown = found.new_full(((frames - len(shown)) * batch, k_all), torch.nan)
            distances += [found, unknown]
    return Benefits(
        [torch.cat(t) for t in taps_out] if keep_taps else [],
        torch.cat(conditions),
        torch.cat(squares),
        {name: torch.cat(parts) for name, parts in logits.items()},
        torch.cat(signs),
        torch.cat(residuals) if residuals else torch.empty(0),
        torch.cat(distances) if distances else torch.empty(0),
    )


def perceptual_distances(perceptual: PictureDistance, real: Tensor, shown: Tensor) -> Tensor:
    """float32[B, K] of recorded frames uint8[B, H, W, 3] and pictures of every step uint8[B, K, H, W, 3]."""
    steps = shown.shape[1]
    parts = []
    for some, pictures in zip(*(x.split(max(PERCEPTUAL_BATCH // steps, 1)) for x in (real, shown)), strict=True):
        reference = some[:, None].expand_as(pictures).flatten(0, 1)
        distance = perceptual.distance(reference.numpy(), pictures.flatten(0, 1).numpy())
        parts.append(torch.from_numpy(np.asarray(distance, np.float32)).unflatten(0, (-1, steps)))
    return torch.cat(parts)
