"""Stems and heads: between the latent grid (or the picture itself) and the transformer's tokens."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class LinearStem(nn.Module):
    """One token per `patch` x `patch` latent cells (shape A: the transformer works on an autoencoder's latents)."""

    def __init__(self, channels: int, dim: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.embed = nn.Linear(channels * patch**2, dim)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """[B, C, h, w] -> tokens [B, T, dim], and nothing for the head to reuse."""
        return self.embed(F.pixel_unshuffle(x, self.patch).flatten(-2).transpose(-1, -2)), []


class LinearHead(nn.Module):
    """Tokens back to latent cells; `grid` is the token grid (rows, columns)."""

    def __init__(self, channels: int, dim: int, grid: tuple[int, int], patch: int) -> None:
        super().__init__()
        self.grid, self.patch = grid, patch
        self.out = nn.Linear(dim, channels * patch**2)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, tokens: Tensor, skips: list[Tensor]) -> Tensor:
        """[B, T, dim] -> [B, C, h, w]."""
        return F.pixel_shuffle(self.out(tokens).transpose(-1, -2).unflatten(-1, self.grid), self.patch)


class ConvStem(nn.Module):
    """One token per 8x8 pixels through three strided convolutions (shape B: no autoencoder)."""

    def __init__(self, channels: int, dim: int, width: int = 32) -> None:
        super().__init__()
        self.enter = nn.Conv2d(4 * channels, width, 3, padding=1)
        self.down1 = nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)
        self.down2 = nn.Conv2d(2 * width, dim, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """[B, C, H, W] -> tokens [B, H * W / 64, dim], and the feature maps at 1/2 and 1/4 for the head."""
        half = F.silu(self.enter(F.pixel_unshuffle(x, 2)))
        quarter = F.silu(self.down1(half))
        return self.down2(quarter).flatten(-2).transpose(-1, -2), [half, quarter]


class ConvHead(nn.Module):
    """Tokens back to pixels, with the stem's feature maps added on the way."""

    def __init__(self, channels: int, dim: int, grid: tuple[int, int], base: int = 32) -> None:
        super().__init__()
        self.grid = grid
        self.up2 = nn.Conv2d(dim, 8 * base, 1)
        self.mix2 = nn.Conv2d(2 * base, 2 * base, 3, padding=1)
        self.up1 = nn.Conv2d(2 * base, 4 * base, 1)
        self.mix1 = nn.Conv2d(base, base, 3, padding=1)
        self.out = nn.Conv2d(base, 4 * channels, 3, padding=1)
        nn.init.zeros_(self.out.weight)

    def forward(self, tokens: Tensor, skips: list[Tensor]) -> Tensor:
        """[B, h * w, dim] -> [B, C, 8h, 8w]."""
        half, quarter = skips
        x = tokens.transpose(-1, -2).unflatten(-1, self.grid)
        x = F.silu(self.mix2(F.pixel_shuffle(self.up2(x), 2) + quarter))
        x = F.silu(self.mix1(F.pixel_shuffle(self.up1(x), 2) + half))
        return F.pixel_shuffle(self.out(x), 2)
