"""Downsampling in space, and in time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from exporters.model.wan_vae.convolution import per_frame
from exporters.model.wan_vae.stream import Memory


class Downsample(nn.Module):
    """Halves the sides and, if `temporal`, the frames, but for a stream's first frame, which passes time as it is."""

    def __init__(self, channels: int, temporal: bool) -> None:
        super().__init__()
        self.space = nn.Conv2d(channels, channels, 3, stride=2)
        self.time = nn.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1)) if temporal else None

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """[B, C, n, h, w] -> [B, C, n', h / 2, w / 2]: n' is n / 2, or (n + 1) / 2 where the stream begins."""
        x = per_frame(lambda frames: self.space(functional.pad(frames, (0, 1, 0, 1))), x)
        if self.time is None:
            return x
        if not memory.starts:
            return self.time(memory.extend(x, 1))
        memory.keep(x, 1)
        first = x[:, :, :1]
        return first if x.shape[2] == 1 else torch.cat([first, self.time(x)], dim=2)
