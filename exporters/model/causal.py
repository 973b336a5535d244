"""What a rollout and a confidence head need of a generator, whatever its architecture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from torch import Tensor

C = TypeVar("C")
"""What a generator keeps of the ticks before: an immutable context of its own kind."""


class CausalGenerator(Protocol[C]):
    """One tick after another, each a latent of `latent_shape` that is denoised in steps and then committed."""

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one session's latent per tick."""

    @property
    def confidence(self) -> Callable[[list[Tensor], Tensor], Tensor]:
        """(taps, condition) -> logit float32[B]."""

    def empty_context(self, batch: int) -> C:
        """The context of `batch` sessions that have seen nothing."""

    def denoise(self, noisy: Tensor, level: Tensor, action: Tensor, context: C) -> tuple[Tensor, list[Tensor], Tensor]:
        """noisy [B, *latent_shape], level [B], action [B, A] -> clean estimate, tapped tokens [B, T, dim], condition
        [B, dim]."""

    def commit(self, clean: Tensor, level: Tensor, action: Tensor, context: C) -> C:
        """Write a finished tick into the context."""
