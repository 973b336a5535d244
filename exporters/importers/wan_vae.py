"""Wan2.1's video autoencoder from its published files: the original one (`Wan2.1_VAE.pth`) or that of diffusers.

Which of the two it is, and the model's shape, are read from the tensors' names and shapes. The latents' statistics come
from diffusers' `config.json`; the original file has none, and 16 channels are then taken for Wan's.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from exporters.importers.checkpoint import CONFIG, Checkpoint, CheckpointError, load_into, open_checkpoint
from exporters.model.wan_vae.config import WAN_MEAN, WAN_STD, WanVAEConfig
from exporters.model.wan_vae.residual import ResidualBlock
from exporters.model.wan_vae.vae import WanVAE


@dataclass(frozen=True)
class _Style:
    """How a publisher names the tensors."""

    rules: tuple[tuple[str, str], ...]
    """Regular expressions and what takes their place, applied in turn to this project's names."""
    first: str
    """Weights of the encoder's first convolution; whoever has it has this style."""

    def name(self, own: str) -> str:
        for pattern, replacement in self.rules:
            own = re.sub(pattern, replacement, own)
        return own


ORIGINAL = _Style(
    (
        (r"^encoder\.to_moments\.", "conv1."),
        (r"^decoder\.from_latent\.", "conv2."),
        (r"\.conv_in\.", ".conv1."),
        (r"^encoder\.layers\.", "encoder.downsamples."),
        (r"^decoder\.layers\.", "decoder.upsamples."),
        (r"\.norm_out\.", ".head.0."),
        (r"\.conv_out\.", ".head.2."),
        (r"(\.\d+)\.norm1\.", r"\1.residual.0."),
        (r"(\.\d+)\.conv1\.", r"\1.residual.2."),
        (r"(\.\d+)\.norm2\.", r"\1.residual.3."),
        (r"(\.\d+)\.conv2\.", r"\1.residual.6."),
        (r"\.space\.", ".resample.1."),
        (r"\.time\.", ".time_conv."),
    ),
    "encoder.conv1.weight",
)
DIFFUSERS = _Style(
    (
        (r"^encoder\.to_moments\.", "quant_conv."),
        (r"^decoder\.from_latent\.", "post_quant_conv."),
        (r"\.middle\.0\.", ".mid_block.resnets.0."),
        (r"\.middle\.1\.", ".mid_block.attentions.0."),
        (r"\.middle\.2\.", ".mid_block.resnets.1."),
        (r"^encoder\.layers\.", "encoder.down_blocks."),
        (r"\.shortcut\.", ".conv_shortcut."),
        (r"\.space\.", ".resample.1."),
        (r"\.time\.", ".time_conv."),
    ),
    "encoder.conv_in.weight",
)


def read_wan_vae(path: Path) -> WanVAE:
    """The autoencoder of a file or folder, float32, in evaluation mode.

    Raises CheckpointError if it is not Wan2.1's, or lists every tensor that is missing, left over or of another shape.
    """
    checkpoint = open_checkpoint(path)
    style = next((style for style in (ORIGINAL, DIFFUSERS) if style.first in checkpoint), None)
    if style is None:
        raise CheckpointError(
            f"{checkpoint.path}: not an autoencoder of Wan2.1: it has neither {ORIGINAL.first!r} (the original file)"
            f" nor {DIFFUSERS.first!r} (diffusers)"
        )
    config = read_config(checkpoint, style)
    with torch.device("meta"):
        vae = WanVAE(config)
    load_into(vae, checkpoint, published_names(vae, style))
    vae.set_statistics()
    return vae.eval().requires_grad_(False)


def published_names(vae: WanVAE, style: _Style) -> dict[str, str]:
    """This project's name of every tensor -> its name in a published file."""
    per_block = vae.config.blocks + 2  # residual blocks and an upsampling, which diffusers puts into one of its own

    def grouped(match: re.Match[str]) -> str:
        block, index = divmod(int(match[1]), per_block)
        kind = "resnets" if isinstance(vae.decoder.layers[int(match[1])], ResidualBlock) else "upsamplers"
        return f"decoder.up_blocks.{block}.{kind}.{index if kind == 'resnets' else 0}."

    def name(own: str) -> str:
        return re.sub(r"^decoder\.layers\.(\d+)\.", grouped, own) if style is DIFFUSERS else own

    return {own: style.name(name(own)) for own in vae.state_dict()}


def read_config(checkpoint: Checkpoint, style: _Style) -> WanVAEConfig:
    """The model's shape from its tensors. Raises CheckpointError if they cannot be those of Wan2.1's autoencoder."""
    base, pictures = _conv3d(checkpoint, style.first)
    channels, _ = _conv3d(checkpoint, style.name("decoder.from_latent.weight"))
    multipliers: list[int] = []
    temporal: list[bool] = []
    blocks = 0
    for index in itertools.count():
        layer = f"encoder.layers.{index}"
        if style.name(f"{layer}.space.weight") in checkpoint:
            temporal.append(style.name(f"{layer}.time.weight") in checkpoint)
        elif (block := style.name(f"{layer}.conv2.weight")) in checkpoint:
            blocks += not temporal  # they are as many at every resolution
            if len(multipliers) == len(temporal):
                multipliers.append(_conv3d(checkpoint, block)[0] // base)
        else:
            break
    if not multipliers:
        raise CheckpointError(
            f"{checkpoint.path}: not an autoencoder of Wan2.1: its encoder has no layers (2.2's has others)"
        )
    mean, std = (_statistic(checkpoint, name, channels) for name in ("latents_mean", "latents_std"))
    try:
        return WanVAEConfig(pictures, channels, base, tuple(multipliers), blocks, tuple(temporal), mean, std)
    except ValueError as error:
        raise CheckpointError(f"{checkpoint.path}: not an autoencoder of Wan2.1 ({error})") from None


def _conv3d(checkpoint: Checkpoint, name: str) -> tuple[int, int]:
    """Outputs and inputs of a convolution."""
    shape = checkpoint.shape(name)
    if len(shape) != 5:
        raise CheckpointError(f"{checkpoint.path}: {name}: must have 5 axes, has the shape {list(shape)}")
    return shape[0], shape[1]


def _statistic(checkpoint: Checkpoint, name: str, channels: int) -> tuple[float, ...]:
    """The latents' mean or standard deviation per channel, Wan's where the checkpoint says nothing."""
    values = checkpoint.config.get(name, {"latents_mean": WAN_MEAN, "latents_std": WAN_STD}[name])
    if not isinstance(values, list | tuple) or not all(isinstance(value, int | float) for value in values):
        raise CheckpointError(f"{checkpoint.path.parent / CONFIG}: {name}: must be a list of numbers")
    if len(values) != channels:
        raise CheckpointError(
            f"{checkpoint.path}: its latents have {channels} channels and {name} {len(values)} values;"
            f" put a {CONFIG} with {name} beside it"
        )
    return tuple(map(float, values))
