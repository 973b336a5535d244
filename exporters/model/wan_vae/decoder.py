"""Decoder: latents to pictures."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from exporters.model.wan_vae.attention import FrameAttention
from exporters.model.wan_vae.config import WanVAEConfig
from exporters.model.wan_vae.convolution import CausalConvolution
from exporters.model.wan_vae.norm import ChannelNorm
from exporters.model.wan_vae.residual import ResidualBlock
from exporters.model.wan_vae.stream import Memory
from exporters.model.wan_vae.upsample import Upsample


class Decoder(nn.Module):
    """Two residual blocks around an attention at the latent's resolution, then residual blocks at rising ones."""

    def __init__(self, config: WanVAEConfig) -> None:
        super().__init__()
        channels, widths = config.latent_channels, [config.base_width * m for m in reversed(config.multipliers)]
        self.from_latent = CausalConvolution(channels, channels, 1, 1)
        width = widths[0]
        self.conv_in = CausalConvolution(channels, width, 3, 3)
        self.middle = nn.ModuleList([ResidualBlock(width, width), FrameAttention(width), ResidualBlock(width, width)])
        self.layers = nn.ModuleList()
        temporal = config.temporal[::-1]
        for level, out in enumerate(widths):
            for _ in range(config.blocks + 1):
                self.layers.append(ResidualBlock(width, out))
                width = out
            if level < len(temporal):
                self.layers.append(Upsample(width, temporal[level]))
                width //= 2
        self.norm_out = ChannelNorm(width, 3)
        self.conv_out = CausalConvolution(width, config.picture_channels, 3, 3)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """[B, C, n, h, w] -> [B, 3, N, H, W]."""
        x = self.conv_in(self.from_latent(x, memory), memory)
        for layer in (*self.middle, *self.layers):
            x = layer(x, memory)
        return self.conv_out(functional.silu(self.norm_out(x)), memory)
