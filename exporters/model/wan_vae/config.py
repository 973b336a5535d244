"""Shape of Wan's autoencoder, and the statistics by which its latents are normalised."""

from __future__ import annotations

from dataclasses import dataclass

WAN_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
"""Per latent channel over Wan2.1's training data, as published with its autoencoder."""
WAN_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip


@dataclass(frozen=True)
class WanVAEConfig:
    """The defaults are Wan2.1's published autoencoder. Raises ValueError for tuples that do not fit together."""

    picture_channels: int = 3
    latent_channels: int = 16
    base_width: int = 96
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    """Channels per resolution over `base_width`, from the picture's own to the latent's; each halves the sides."""
    blocks: int = 2
    """Residual blocks per resolution in the encoder; the decoder has one more."""
    temporal: tuple[bool, ...] = (False, True, True)
    """Whether time is halved as well, for every halving of the sides, from the picture on."""
    mean: tuple[float, ...] = WAN_MEAN
    std: tuple[float, ...] = WAN_STD
    """The latents that go in and out are (what the encoder computes - mean) / std, per channel."""

    def __post_init__(self) -> None:
        if len(self.temporal) != len(self.multipliers) - 1:
            raise ValueError(
                f"temporal: {len(self.multipliers)} resolutions have {len(self.multipliers) - 1} steps between them,"
                f" got {len(self.temporal)}"
            )
        for name in ("mean", "std"):
            if len(getattr(self, name)) != self.latent_channels:
                raise ValueError(
                    f"{name}: give one value per latent channel, {self.latent_channels}, got {len(getattr(self, name))}"
                )
        if min(self.std) <= 0:
            raise ValueError(f"std: must be above 0, got {min(self.std):g}")

    @property
    def scale(self) -> int:
        """Side of a picture over the side of its latent."""
        return 2 ** len(self.temporal)

    @property
    def pictures_per_latent(self) -> int:
        """Of every latent but a stream's first, which is one picture."""
        return 2 ** sum(self.temporal)
