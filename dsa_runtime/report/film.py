"""Film: the demo as an animated GIF, each frame with what it cost and how sure the world was."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ..atomic import whole_file
from ..tick import Tick
from .gif import SAMPLES, GifPalette, spread, write_gif
from .pictures import Pictures
from .play import Play

MOST_FRAMES = 900
"""Whoever plays keeps the pictures of as many ticks in memory, so a film ends there."""


def write_film(play: Play, path: Path, progress: Callable[[], object] = lambda: None) -> None:
    """Write the play as a GIF that runs at the world's own rate, of each tick its newest picture. `progress` is called
    after every frame.
    """
    count = min(len(play.ticks), MOST_FRAMES)
    pictures = Pictures(play.spec.frame, play)
    late = np.flatnonzero(play.late[:count])[:SAMPLES].tolist()  # their colours are rare
    sample = sorted({*spread(count), *late})
    strips = [strip for index in sample if (strip := pictures.strip(index)) is not None]
    palette = GifPalette([play.ticks[index].pixels for index in sample], strips)

    def frames() -> Iterator[tuple[int, np.ndarray]]:
        for index in range(count):
            yield index, play.ticks[index].pixels
            progress()

    with whole_file(path) as partial:
        write_gif(partial, pictures, palette, play.spec.frame.period_ms, count, frames())


def newest_picture(tick: Tick) -> Tick:
    """The tick with its newest picture alone, which is what a film shows, so that memory holds no others."""
    if len(tick.frames) == 1:
        return tick
    pixels = tick.pixels.copy()
    return dataclasses.replace(tick, pixels=pixels, frames=pixels[np.newaxis])
