"""Decoder: latents to pictures, as the convolutions of one tick."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Convolution:
    """One convolution over all frames of a tick."""

    inputs: int
    outputs: int
    taps: int
    """Cells of its kernel: 27 of 3x3x3."""
    cells: int
    """Positions that it computes in a tick."""
    past: int = 0
    """Positions of earlier frames that it remembers."""
    enlarged: bool = False
    """Whether the sides of its input are doubled in front of it, a pass of its own."""
    normed: bool = False
    """Whether a norm and an activation stand in front of it."""
    added: bool = False
    """Whether its output is added to what the block began with."""
    bias: bool = True

    @property
    def parameters(self) -> int:
        return self.inputs * self.outputs * self.taps + self.bias * self.outputs

    @property
    def flops(self) -> int:
        return 2 * self.inputs * self.outputs * self.taps * self.cells

    @property
    def moved(self) -> int:
        """Values that the convolution itself reads and writes."""
        return (self.inputs + self.outputs) * self.cells

    @property
    def around(self) -> float:
        """Values read and written by what stands around it: norm and enlarging read and write, a sum reads two."""
        return (
            2 * self.normed + 1.25 * self.enlarged
        ) * self.inputs * self.cells + 3 * self.added * self.outputs * self.cells

    @property
    def widest(self) -> int:
        """Values that lie in memory at once: what the block began with, the convolution's input and its output."""
        return (1 + self.normed) * self.inputs * self.cells + self.outputs * self.cells


@dataclass(frozen=True)
class Decoder:
    """What a tick's latent goes through to become pictures."""

    name: str
    convolutions: tuple[Convolution, ...]
    norm_parameters: int
    attended: int = 0
    """Operations of attention inside the frames."""

    @property
    def parameters(self) -> int:
        return sum(convolution.parameters for convolution in self.convolutions) + self.norm_parameters

    @property
    def state_values(self) -> int:
        """Of a stream: what its causal convolutions remember."""
        return sum(convolution.inputs * convolution.past for convolution in self.convolutions)


def wan_decoder(
    frames: int, height: int, width: int, *, channels: int = 16, base: int = 96,
    multipliers: tuple[int, ...] = (1, 2, 4, 4), blocks: int = 2, temporal: tuple[bool, ...] = (False, True, True),
) -> Decoder:  # fmt: skip
    """Wan2.1's decoder for a chunk of `frames` latents of height x width, other than a stream's first.

    The keyword arguments are those of the published model, picture's side first.
    """
    widths = [base * m for m in reversed(multipliers)]
    every: list[Convolution] = []
    norms = 0

    def block(inputs: int, outputs: int) -> Iterator[Convolution]:
        cells, past = frames * area, 2 * area
        yield Convolution(inputs, outputs, 27, cells, past, normed=True)
        yield Convolution(outputs, outputs, 27, cells, past, normed=True, added=True)
        if inputs != outputs:
            yield Convolution(inputs, outputs, 1, cells)

    area, inner = height * width, widths[0]
    every.append(Convolution(channels, channels, 1, frames * area))
    every.append(Convolution(channels, inner, 27, frames * area, 2 * area))
    every += [*block(inner, inner), *block(inner, inner)]
    every.append(Convolution(inner, 3 * inner, 1, frames * area, normed=True))
    every.append(Convolution(inner, inner, 1, frames * area, added=True))
    norms += 5 * inner
    attended = 4 * frames * area**2 * inner
    for level, outputs in enumerate(widths):
        for _ in range(blocks + 1):
            every += block(inner, outputs)
            norms += inner + outputs
            inner = outputs
        if level < len(temporal):
            if temporal[::-1][level]:
                every.append(Convolution(inner, 2 * inner, 3, frames * area, 2 * area))
                frames *= 2
            area *= 4
            every.append(Convolution(inner, inner // 2, 9, frames * area, enlarged=True))
            inner //= 2
    every.append(Convolution(inner, 3, 27, frames * area, 2 * area, normed=True))
    return Decoder("full", tuple(every), norms + inner, attended)


def small_decoder(
    frames: int,
    height: int,
    width: int,
    *,
    channels: int = 16,
    widths: tuple[int, ...] = (256, 128, 64),
    blocks: int = 1,
) -> Decoder:
    """That of `exporters.model.small_decoder`, with its defaults, for a chunk of `frames` latents."""
    every: list[Convolution] = []
    area, inner = height * width, widths[0]
    every.append(Convolution(channels, inner, 9, frames * area))
    for level, outputs in enumerate(widths):
        if level:
            every.append(Convolution(inner, 8 * outputs, 1, frames * area))
            frames, area, inner = 2 * frames, 4 * area, outputs
        # The memory block's first convolution has a twin that sees the frame before.
        every.append(Convolution(inner, inner, 9, frames * area, past=area, bias=False))
        for _ in range(1 + blocks):
            every.append(Convolution(inner, inner, 9, frames * area))
            every.append(Convolution(inner, inner, 9, frames * area, normed=True, added=True))
    every.append(Convolution(inner, 4 * 3, 9, frames * area, normed=True))
    return Decoder("small", tuple(every), 0)


def world_decoder(
    height: int, width: int, *, channels: int = 16, widths: tuple[int, int, int] = (32, 64, 128), blocks: int = 2
) -> Decoder:
    """That of `exporters.model.autoencoder` for a latent of height x width; pictures have 8 times its sides."""
    every: list[Convolution] = []
    norms, area, low = 0, height * width, widths[0]
    every.append(Convolution(channels, widths[2], 9, area))
    for level, inner in enumerate(reversed(widths)):
        for _ in range(blocks):
            every.append(Convolution(inner, inner, 9, area, normed=True))
            every.append(Convolution(inner, inner, 9, area, normed=True, added=True))
            norms += 4 * inner
        if level < 2:
            every.append(Convolution(inner, 4 * widths[1 - level], 1, area))
            area *= 4
    every.append(Convolution(low, 4 * 3, 9, area, normed=True))
    return Decoder("own", tuple(every), norms + 2 * low)
