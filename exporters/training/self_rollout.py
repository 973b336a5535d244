"""Self-rollout: the frames that a generator in training plays on from its own, each left after a step of its own.

What the two joint confidence heads say at that step comes with them, and the target of one: the gain of going on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from exporters.model.autoencoder import Autoencoder
from exporters.model.confidence import ConfidenceHead
from exporters.model.flow import add_noise
from exporters.model.generator import Context, Generator
from exporters.training.benefit import picture_distance
from exporters.training.distributed import Ranks


@dataclass(frozen=True)
class SelfRollout:
    """Frames that the generator has played, N per session, with what its confidence heads said and should say."""

    frames: Tensor
    """[B, N, C, h, w]: the estimate of each frame's exit step, which is also what was committed. With gradient."""
    residual_logit: Tensor
    """[B, N], of the generator's own head at the exit step. With gradient."""
    gain_logit: Tensor
    """[B, N], of the gain head at the exit step. With gradient."""
    gain: Tensor
    """float32[B, N]: how far the frame's picture is from what the remaining steps would have made of it, by
    `picture_distance`; 0 for a frame that exited at the last step."""
    context: Context
    """After the last frame."""


def self_rollout(
    generator: Generator,
    gain_head: ConfidenceHead,
    autoencoder: Autoencoder,
    levels: tuple[float, ...],
    context: Context,
    action: Tensor,
    exits: Tensor,
) -> SelfRollout:
    """Roll out one frame per action; gradient at each frame's exit step only, and none through the cache.

    action [B, N, A]; exits int64[N], 0-based exit step per frame. The steps after the exit are only looked at, as
    the frozen autoencoder's pictures of them are.
    """
    ranks = Ranks.current()
    batch, c = action.shape[0], generator.config
    shape = (batch, c.latent_channels, c.latent_height, c.latent_width)
    frames, lasts, residual_logits, gain_logits = [], [], [], []
    for i in range(action.shape[1]):
        act = action[:, i]
        x = ranks.draw(lambda s: torch.randn(s, device=action.device), shape)
        for k, value in enumerate(levels):
            at_exit = k == int(exits[i])
            with torch.set_grad_enabled(at_exit):
                estimate, taps, condition = generator.denoise(x, x.new_full((batch,), value), act, context)
            if at_exit:
                frames.append(estimate)
                residual_logits.append(generator.confidence(taps, condition))
                gain_logits.append(gain_head(taps, condition))
            if k + 1 < len(levels):
                x = add_noise(estimate.detach(), ranks.randn_like(x), x.new_full((batch,), levels[k + 1]))
        lasts.append(estimate.detach())
        with torch.no_grad():
            context = generator.commit(frames[-1].detach(), x.new_zeros(batch), act, context)
    played = torch.stack(frames, 1)
    gain = remaining_gain(autoencoder, played, torch.stack(lasts, 1), exits < len(levels) - 1)
    logits = torch.stack(residual_logits, 1), torch.stack(gain_logits, 1)
    return SelfRollout(played, *logits, gain, context)


@torch.no_grad()
def remaining_gain(autoencoder: Autoencoder, frames: Tensor, lasts: Tensor, going: Tensor) -> Tensor:
    """Picture distance float32[B, N] of frames and last estimates [B, N, C, h, w]; 0 where not `going` (bool[N]).

    All frames that have one are decoded in two batches.
    """
    gain = frames.new_zeros(frames.shape[:2])
    columns = torch.nonzero(going).flatten().to(frames.device)
    if len(columns) > 0:
        early, late = (x[:, columns].flatten(0, 1) for x in (frames, lasts))
        gain[:, columns] = picture_distance(autoencoder, early, late).unflatten(0, (len(frames), -1))
    return gain
