"""Autoencoder: pictures to a small grid of latents and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class AutoencoderConfig:
    """Shape of the autoencoder. The picture side is 8 times the latent side."""

    picture_channels: int = 3
    latent_channels: int = 16
    widths: tuple[int, int, int] = (32, 64, 128)
    """Channels at 1/2, 1/4 and 1/8 of the picture's resolution."""
    decoder_blocks: int = 2
    """Residual blocks per resolution in the decoder (the encoder has one)."""
    latent_noise: float = 0.1
    """Standard deviation of the noise added to unit-variance latents in training: smooths the latent space
    and teaches the decoder to forgive the generator's small errors."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a group norm in front of each, added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, width), nn.Conv2d(width, width, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(8, width), nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class Autoencoder(nn.Module):
    """Convolutional autoencoder with unit-variance latents.

    The latents are normalised per channel by running statistics (a batch norm without scale), so that the
    flow's data side has the variance of its noise side.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        c, (w1, w2, w3) = config.picture_channels, config.widths
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * c, w1, 3, padding=1),
            ResidualBlock(w1),
            nn.Conv2d(w1, w2, 4, stride=2, padding=1),
            ResidualBlock(w2),
            nn.Conv2d(w2, w3, 4, stride=2, padding=1),
            ResidualBlock(w3),
            nn.GroupNorm(8, w3),
            nn.SiLU(),
            nn.Conv2d(w3, config.latent_channels, 1),
        )
        self.normalise = nn.BatchNorm2d(config.latent_channels, affine=False, momentum=0.02)
        n = config.decoder_blocks
        self.decoder = nn.Sequential(
            nn.Conv2d(config.latent_channels, w3, 3, padding=1),
            *(ResidualBlock(w3) for _ in range(n)),
            nn.Conv2d(w3, 4 * w2, 1),
            nn.PixelShuffle(2),
            *(ResidualBlock(w2) for _ in range(n)),
            nn.Conv2d(w2, 4 * w1, 1),
            nn.PixelShuffle(2),
            *(ResidualBlock(w1) for _ in range(n)),
            nn.GroupNorm(8, w1),
            nn.SiLU(),
            nn.Conv2d(w1, 4 * c, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def encode(self, picture: Tensor) -> Tensor:
        """Picture float32[B, 3, H, W] in [-1, 1] -> latent float32[B, C, H/8, W/8]."""
        return self.normalise(self.encoder(picture))

    def decode(self, latent: Tensor) -> Tensor:
        """Latent float32[B, C, h, w] -> picture float32[B, 3, 8h, 8w], nominally in [-1, 1], not clamped."""
        return self.decoder(latent)

    def forward(self, picture: Tensor) -> Tensor:
        """Reconstruct; in training mode the latents are disturbed by `latent_noise`."""
        latent = self.encode(picture)
        if self.training:
            latent = latent + self.config.latent_noise * torch.randn_like(latent)
        return self.decode(latent)


def pictures_to_float(frames: Tensor) -> Tensor:
    """uint8[..., H, W, 3] -> float32[..., 3, H, W] in [-1, 1]."""
    return frames.movedim(-1, -3).float().div_(127.5).sub_(1.0)


def pictures_to_uint8(pictures: Tensor) -> Tensor:
    """float[..., 3, H, W] in [-1, 1] -> uint8[..., H, W, 3], rounded to nearest and clamped."""
    return pictures.add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8).movedim(-3, -1)
