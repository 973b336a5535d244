"""Context: what a chunk of a rollout sees besides itself, the prompt and the chunks before it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Prompt:
    """A text's keys and values per layer, [B, L, H, D] each: they do not change while it stays the prompt."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


@dataclass(frozen=True)
class WanContext:
    """Committed chunks of a batch of rollouts, oldest first; all sessions have the same ages.

    keys, values: one [B, W, T, H, D] per layer, rotated inside the chunk and by no age.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    prompt: Prompt | None = None

    def push(self, keys: list[Tensor], values: list[Tensor], window: int, sink: int) -> WanContext:
        """Append one chunk's [B, T, H, D] per layer; a full window drops its oldest past the sink."""

        def join(old: tuple[Tensor, ...], new: list[Tensor]) -> tuple[Tensor, ...]:
            joined = (torch.cat([a, b.unsqueeze(1)], 1) for a, b in zip(old, new, strict=True))
            return tuple(x if x.shape[1] <= window else torch.cat([x[:, :sink], x[:, sink + 1 :]], 1) for x in joined)

        return replace(self, keys=join(self.keys, keys), values=join(self.values, values))

    @property
    def age(self) -> Tensor:
        """int64[W]: places in the window, the newest chunk is at 1."""
        chunks = self.keys[0].shape[1]
        return torch.arange(chunks, 0, -1, device=self.keys[0].device)
