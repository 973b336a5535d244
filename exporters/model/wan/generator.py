"""Wan's transformer as a causal generator, with the interface of the game worlds' `Generator`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from exporters.model.confidence import ConfidenceHead
from exporters.model.flow import expand
from exporters.model.generator import Attend
from exporters.model.wan.attention import context_attention, teacher_forced_attention
from exporters.model.wan.config import WanConfig
from exporters.model.wan.context import Prompt, WanContext
from exporters.model.wan.transformer import WanTransformer


class WanGenerator(nn.Module):
    """Noisy chunk + noise level + action + context -> clean estimate (and confidence logit).

    A tick is a chunk of n latent frames [B, C, n, h, w] with one noise level; the cache's frame holds its T tokens. The
    clean estimate is x_t - t * v, since the network says v = noise - clean.
    """

    def __init__(self, transformer: WanTransformer) -> None:
        super().__init__()
        self.config: WanConfig = transformer.config
        self.transformer = transformer
        self.confidence = ConfidenceHead(self.config.dim, len(self.config.taps))

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of a chunk: channels, latent frames, height, width."""
        return self.config.latent_shape

    def run(
        self, latent: Tensor, level: Tensor, action: Tensor, attends: Sequence[Attend], prompt: Prompt | None = None
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """All blocks; returns clean estimate float32[B, C, n, h, w], tapped tokens [B, T, dim], condition [B, dim].

        Number of frames, height and width are those of `latent`, whatever the configuration says.
        """
        velocity, taps, condition = self.transformer(latent, level, action, attends, prompt, self.config.taps)
        return latent - expand(level, latent) * velocity, taps, condition

    def keys_values(
        self, latent: Tensor, level: Tensor, action: Tensor, attends: Sequence[Attend], prompt: Prompt | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Per layer the chunk's keys and values [B, T, H, D], as the cache stores them."""
        return self.transformer.keys_values(latent, level, action, attends, prompt)

    # Rollouts: a batch of sessions in step with each other.

    def empty_context(self, batch: int, prompt: Prompt | None = None) -> WanContext:
        """No chunks yet. Raises ValueError if the model is conditioned on text and there is no prompt."""
        c = self.config
        if (prompt is None) == bool(c.text_width):
            raise ValueError(
                "prompt: give `transformer.prompt(embeddings)` to a model that takes text, and to no other"
            )
        none = self.transformer.stem.embed.weight.new_zeros(batch, 0, c.tokens, c.heads, c.head_dim)
        return WanContext((none,) * c.depth, (none,) * c.depth, prompt)

    def _attends(self, context: WanContext) -> list[Attend]:
        c = self.config
        # The operator's theta knows latent frames only, so an age of chunks is given to it in these.
        past = partial(context_attention, age=c.chunk * context.age, temporal_dims=c.temporal_dims, theta=c.theta)
        return [
            partial(past, context_key=key, context_value=value)
            for key, value in zip(context.keys, context.values, strict=True)
        ]

    def denoise(
        self, noisy: Tensor, level: Tensor, action: Tensor, context: WanContext
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """One denoising step: noisy [B, C, n, h, w], level [B], action [B, A] -> clean estimate, taps, condition."""
        return self.run(noisy, level, action, self._attends(context), context.prompt)

    def commit(self, clean: Tensor, level: Tensor, action: Tensor, context: WanContext) -> WanContext:
        """Write a finished chunk into the context."""
        keys, values = self.keys_values(clean, level, action, self._attends(context), context.prompt)
        return context.push(keys, values, self.config.window, self.config.sink)

    # Training on clips.

    def teacher_forced(
        self,
        clean: Tensor,
        clean_level: Tensor,
        noisy: Tensor,
        level: Tensor,
        action: Tensor,
        prompt: Prompt | None = None,
    ) -> Tensor:
        """Clean estimates of all noisy chunks of a clip, each seeing the clean chunks before it.

        clean, noisy [B, N, C, n, h, w]; clean_level, level [B, N]; action [B, N, A] -> [B, N, C, n, h, w].
        """
        c = self.config
        attend = partial(
            teacher_forced_attention,
            chunk=clean.shape[-3],
            window=c.window,
            sink=c.sink,
            temporal_dims=c.temporal_dims,
            theta=c.theta,
        )
        both, levels = torch.stack([clean, noisy], dim=2), torch.stack([clean_level, level], dim=2)
        actions = action.unsqueeze(2).expand(-1, -1, 2, -1)
        velocity, _, _ = self.transformer(both, levels, actions, [attend] * c.depth, prompt)
        return noisy - expand(level, noisy) * velocity[:, :, 1]
