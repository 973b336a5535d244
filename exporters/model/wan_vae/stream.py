"""Stream: what causal layers remember from one chunk of a video to the next."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

Stream = tuple[Tensor, ...]
"""The state of a stream after a chunk: per causal layer, in the order of their use, its last input frames. Each is
[B, C, frames, h, w], or in the small decoder [B, frames, C, h, w]. None stands for a stream that has not begun, whose
first latent is one picture, and later ones several.

A state is never written to, so a fork or a snapshot may share it.
"""


class StreamingDecoder(Protocol):
    """Latents to pictures, chunk by chunk."""

    def decode_chunk(self, latents: Tensor, state: Stream | None) -> tuple[Tensor, Stream]:
        """[B, C, n, h, w] -> pictures [B, 3, N, H, W], nominally in [-1, 1], and the state after them."""


class Memory:
    """The past of one pass over a chunk: gives every causal layer its own, and gathers what they leave behind.

    It lives as long as the pass. Layers are told apart by the order in which they ask. `axis` is that of time.
    """

    def __init__(self, before: Stream | None, axis: int = 2) -> None:
        self._before = before
        self._axis = axis
        self._after: list[Tensor] = []

    @property
    def starts(self) -> bool:
        """Whether this is the first chunk of its stream."""
        return self._before is None

    @property
    def after(self) -> Stream:
        """The state of the stream after the pass."""
        return tuple(self._after)

    def extend(self, x: Tensor, frames: int) -> Tensor:
        """x (five axes) behind the `frames` that the asking layer saw last: zeros where the stream begins."""
        if self._before is None:
            joined = functional.pad(x, (*(0, 0) * (4 - self._axis), frames, 0))
        else:
            joined = torch.cat([self._before[len(self._after)], x], dim=self._axis)
        self.keep(joined, frames)
        return joined

    def keep(self, x: Tensor, frames: int) -> None:
        """The asking layer's next past: the last `frames` of x, in memory of their own."""
        last = x.narrow(self._axis, x.shape[self._axis] - frames, frames)
        self._after.append(last.clone(memory_format=torch.contiguous_format))
