"""Upsampling in space, and in time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from exporters.model.wan_vae.convolution import CausalConvolution, per_frame
from exporters.model.wan_vae.stream import Memory


class Upsample(nn.Module):
    """Doubles the sides, halves the channels and, if `temporal`, doubles the frames, but for a stream's first.

    That first frame passes time as it is. It is no past for the second one either, which sees zeros before it.
    """

    def __init__(self, channels: int, temporal: bool) -> None:
        super().__init__()
        self.space = nn.Conv2d(channels, channels // 2, 3, padding=1)
        self.time = CausalConvolution(channels, 2 * channels, 3, 1) if temporal else None

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """[B, C, n, h, w] -> [B, C / 2, n', 2h, 2w]: n' is 2n, or 2n - 1 where the stream begins."""
        if self.time is not None:
            x = self._first_and_later(x, memory) if memory.starts else self._double(self.time, x, memory)
        return per_frame(lambda frames: self.space(functional.interpolate(frames, scale_factor=2.0)), x)

    def _first_and_later(self, x: Tensor, memory: Memory) -> Tensor:
        first, later = x[:, :, :1], x[:, :, 1:]
        if later.shape[2] == 0:
            memory.keep(torch.zeros_like(first).expand(-1, -1, 2, -1, -1), 2)
            return first
        assert self.time is not None
        return torch.cat([first, self._double(self.time, later, memory)], dim=2)

    @staticmethod
    def _double(time: CausalConvolution, x: Tensor, memory: Memory) -> Tensor:
        """The convolution's output channels are the first frame's of each pair, then the second's."""
        pairs = time(x, memory).unflatten(1, (2, -1))  # B 2 C n h w
        return pairs.movedim(1, 3).flatten(2, 3)
