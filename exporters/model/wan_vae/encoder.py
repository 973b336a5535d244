"""Encoder: pictures to the mean of their latents' distribution."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from exporters.model.wan_vae.attention import FrameAttention
from exporters.model.wan_vae.config import WanVAEConfig
from exporters.model.wan_vae.convolution import CausalConvolution
from exporters.model.wan_vae.downsample import Downsample
from exporters.model.wan_vae.norm import ChannelNorm
from exporters.model.wan_vae.residual import ResidualBlock
from exporters.model.wan_vae.stream import Memory


class Encoder(nn.Module):
    """Residual blocks at falling resolutions, then two around an attention at the latent's."""

    def __init__(self, config: WanVAEConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.base_width * m for m in (1, *config.multipliers)]
        self.conv_in = CausalConvolution(config.picture_channels, widths[0], 3, 3)
        self.layers = nn.ModuleList()
        for level, (width, out) in enumerate(pairwise(widths)):
            for block in range(config.blocks):
                self.layers.append(ResidualBlock(out if block else width, out))
            if level < len(config.temporal):
                self.layers.append(Downsample(out, config.temporal[level]))
        last = widths[-1]
        self.middle = nn.ModuleList([ResidualBlock(last, last), FrameAttention(last), ResidualBlock(last, last)])
        moments = 2 * config.latent_channels
        self.norm_out, self.conv_out = ChannelNorm(last, 3), CausalConvolution(last, moments, 3, 3)
        self.to_moments = CausalConvolution(moments, moments, 1, 1)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """Pictures [B, 3, N, H, W] -> mean [B, C, n, h, w]; the log variances beside it are left out."""
        x = self.conv_in(x, memory)
        for layer in (*self.layers, *self.middle):
            x = layer(x, memory)
        x = self.conv_out(functional.silu(self.norm_out(x)), memory)
        return self.to_moments(x, memory)[:, : self.config.latent_channels]
