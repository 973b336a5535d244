"""SmallDecoder: a light decoder of Wan's latents, to be distilled from the full one.

Convolutions are two-dimensional. Time is doubled twice by a convolution that makes two frames of one; of the frames
before, each resolution sees one, through a memory block. The full decoder computes everything at the picture's own
size with 3x3x3 convolutions; this one stops at half of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from exporters.model.wan_vae.stream import Memory, Stream

SCALE = 8
"""Side of a picture over the side of its latent."""
PICTURES = 4
"""Of every latent but a stream's first, which is one picture."""


@dataclass(frozen=True)
class SmallDecoderConfig:
    """Shape of the decoder."""

    latent_channels: int = 16
    widths: tuple[int, int, int] = (256, 128, 64)
    """Channels at the latent's resolution, at twice and at four times that (half the picture's)."""
    blocks: int = 1
    """Residual blocks after the memory block of each resolution."""


def per_frame(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A layer of pictures [B * n, C, h, w] on every frame of [B, n, C, h, w]."""
    return layer(x.flatten(0, 1)).unflatten(0, (-1, x.shape[1]))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions on every frame, added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """[B, n, C, h, w] -> the same shape."""
        return x + per_frame(lambda frames: self.conv2(functional.relu(self.conv1(frames))), x)


class MemoryBlock(ResidualBlock):
    """A residual block whose first convolution also sees the frame before."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.past = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """[B, n, C, h, w] -> the same shape."""
        before = memory.extend(x, 1)[:, :-1]
        mixed = functional.relu(per_frame(self.conv1, x) + per_frame(self.past, before))
        return x + per_frame(self.conv2, mixed)


class Grow(nn.Module):
    """Doubles the frames and the sides."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, 2 * 4 * out, 1)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """[B, n, C, h, w] -> [B, 2n, out, 2h, 2w]."""
        pairs = self.conv(x.flatten(0, 1)).unflatten(1, (2, -1)).flatten(0, 1)
        return functional.pixel_shuffle(pairs, 2).unflatten(0, (-1, 2 * x.shape[1]))


class SmallDecoder(nn.Module):
    """Normalised latents to pictures by chunks; takes the place of `WanVAE.decode_chunk`."""

    def __init__(self, config: SmallDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.enter = nn.Conv2d(config.latent_channels, config.widths[0], 3, padding=1)
        self.layers = nn.ModuleList()
        for level, width in enumerate(config.widths):
            if level:
                self.layers.append(Grow(config.widths[level - 1], width))
            self.layers.append(MemoryBlock(width))
            self.layers.extend(ResidualBlock(width) for _ in range(config.blocks))
        self.leave = nn.Conv2d(config.widths[-1], 3 * 4, 3, padding=1)

    def decode_chunk(self, latents: Tensor, state: Stream | None) -> tuple[Tensor, Stream]:
        """Latents float[B, C, n, h, w] -> pictures float[B, 3, 4n, 8h, 8w], nominally in [-1, 1], not clamped.

        Of a stream's first chunk (state None) there are 4n - 3 pictures: a first latent is the last one of its four.
        """
        memory = Memory(state, axis=1)
        x = per_frame(self.enter, latents.transpose(1, 2))
        for layer in self.layers:
            x = layer(x, memory)
        pictures = per_frame(lambda frames: functional.pixel_shuffle(self.leave(frames), 2), functional.relu(x))
        return pictures[:, (PICTURES - 1) * memory.starts :].transpose(1, 2), memory.after

    def decode(self, latents: Tensor) -> Tensor:
        """A whole stream at once, as `decode_chunk`."""
        return self.decode_chunk(latents, None)[0]


def save_small_decoder(decoder: SmallDecoder, path: Path) -> None:
    """Write a safetensors file; it holds the configuration as well."""
    from safetensors.torch import save_file

    weights = {name: value.detach().cpu().contiguous() for name, value in decoder.state_dict().items()}
    partial = path.with_suffix(".partial")
    save_file(weights, partial, {"small_decoder": json.dumps(asdict(decoder.config))})
    partial.replace(path)


def load_small_decoder(path: Path) -> SmallDecoder:
    """What `save_small_decoder` wrote, in evaluation mode. Raises ValueError for any other file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            settings = json.loads((file.metadata() or {})["small_decoder"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        config = SmallDecoderConfig(**{**settings, "widths": tuple(settings["widths"])})
        with torch.device("meta"):
            decoder = SmallDecoder(config)
        decoder.load_state_dict(weights, assign=True)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{path}: not a small decoder of this version ({' '.join(str(error).split())[:200]})"
        ) from None
    return decoder.eval().requires_grad_(False)
