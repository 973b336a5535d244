"""Attention inside a frame."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from exporters.model.wan_vae.convolution import per_frame
from exporters.model.wan_vae.norm import ChannelNorm
from exporters.model.wan_vae.stream import Memory


class FrameAttention(nn.Module):
    """Every position of a frame sees all others of that frame: one head, added to the input. It needs no past."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels, 2)
        self.to_qkv, self.proj = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """[B, C, n, h, w] -> the same shape."""
        return x + per_frame(self._attend, x)

    def _attend(self, x: Tensor) -> Tensor:
        height = x.shape[-2]
        qkv = self.to_qkv(self.norm(x)).flatten(2).transpose(1, 2).unsqueeze(1)  # B 1 hw 3C
        seen = functional.scaled_dot_product_attention(*qkv.chunk(3, dim=-1))
        return self.proj(seen.squeeze(1).transpose(1, 2).unflatten(2, (height, -1)))
