"""Causal convolution over time and space."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from exporters.model.wan_vae.stream import Memory


class CausalConvolution(nn.Module):
    """A convolution of `time` x `side` x `side` that sees no later frame; sides keep their size.

    The frames before the chunk come from the stream's memory, `time` - 1 of them.
    """

    def __init__(self, channels: int, out: int, time: int, side: int) -> None:
        super().__init__()
        self.time, self.padding = time, (0, side // 2, side // 2)
        plain = nn.Conv3d(channels, out, (time, side, side))  # for its initial weights
        self.weight, self.bias = plain.weight, plain.bias

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """[B, C, n, h, w] -> [B, out, n, h, w]."""
        if self.time > 1:
            x = memory.extend(x, self.time - 1)
        return functional.conv3d(x, self.weight, self.bias, padding=self.padding)


def per_frame(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer of pictures [B * n, C, h, w] on every frame of [B, C, n, h, w]."""
    frames = x.shape[2]
    return layer(x.movedim(2, 1).flatten(0, 1)).unflatten(0, (-1, frames)).movedim(1, 2)
