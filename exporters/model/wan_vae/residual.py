"""Residual block."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from exporters.model.wan_vae.convolution import CausalConvolution
from exporters.model.wan_vae.norm import ChannelNorm
from exporters.model.wan_vae.stream import Memory


class ResidualBlock(nn.Module):
    """Two causal 3x3x3 convolutions with a norm in front of each, added to the input."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = ChannelNorm(channels, 3), CausalConvolution(channels, out, 3, 3)
        self.norm2, self.conv2 = ChannelNorm(out, 3), CausalConvolution(out, out, 3, 3)
        self.shortcut = CausalConvolution(channels, out, 1, 1) if channels != out else None

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """[B, C, n, h, w] -> [B, out, n, h, w]."""
        h = self.conv1(functional.silu(self.norm1(x)), memory)
        h = self.conv2(functional.silu(self.norm2(h)), memory)
        return h + (x if self.shortcut is None else self.shortcut(x, memory))
