"""Norm over channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ChannelNorm(nn.Module):
    """Root mean square norm over the channels of each position, with a gain per channel."""

    def __init__(self, channels: int, dims: int) -> None:
        """dims: axes after the channels, 2 for pictures and 3 for chunks."""
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * dims))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, ...] -> the same; lengths in float32, since squares leave the range of float16."""
        length = torch.linalg.vector_norm(x.float(), dim=1, keepdim=True).clamp_min(1e-12).to(x.dtype)
        return x / length * (self.gamma * x.shape[1] ** 0.5)
