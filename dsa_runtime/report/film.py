"""Film: the demo as an animated GIF, each frame with what it cost and how sure the world was."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..spec import FrameSpec
from .play import Play
from .strip import Strip

MOST_FRAMES = 900
_PICTURE_HEIGHT = 384
_GAME_COLOURS = 200
_STRIP_COLOURS = 56  # with the game's, the 256 that a GIF can hold
_SAMPLES = 64


def write_film(play: Play, path: Path, progress: Callable[[], object] = lambda: None) -> None:
    """Write the play as a GIF that runs at the world's own rate. `progress` is called after every frame.

    A GIF is made in memory, so a film ends after `MOST_FRAMES`.
    """
    film, count = _Film(play), min(len(play.ticks), MOST_FRAMES)

    def draw() -> Iterator[Image.Image]:
        for index in range(count):
            yield film.frame(index)
            progress()

    frames = draw()
    first = next(frames)
    durations = gif_durations_ms(count, play.spec.frame.period_ms)
    partial = path.with_name(path.name + ".partial")
    # disposal 1: every frame is drawn over the one before it, so that Pillow stores only what changed.
    first.save(
        partial,
        "GIF",
        save_all=True,
        append_images=frames,
        duration=durations,
        loop=0,
        disposal=1,
        optimize=False,
    )
    os.replace(partial, path)


def picture_size(frame: FrameSpec) -> tuple[int, int]:
    """Width and height at which a frame is shown: its display aspect, and a whole multiple of its height."""
    height = frame.height * max(1, round(_PICTURE_HEIGHT / frame.height))
    return round(height * frame.display_aspect[0] / frame.display_aspect[1]), height


def gif_durations_ms(frames: int, period_ms: float) -> list[int]:
    """How long each frame is shown. GIF counts in 10 ms, so the remainders are carried on: no drift.

    Browsers slow anything below 20 ms down to 100 ms, so that is the shortest.
    """
    period_ms = max(period_ms, 20.0)
    edges = [round(index * period_ms / 10) for index in range(frames + 1)]
    return [10 * (end - start) for start, end in itertools.pairwise(edges)]


class _Film:
    """Makes the frames in one palette for the whole film, or colours would flicker.

    Game and strip have their own parts of the palette: the strip has few pixels, and would lose its colours
    to the game or lend it wrong ones.
    """

    def __init__(self, play: Play) -> None:
        self._play, self._size = play, picture_size(play.spec.frame)
        self._strip = Strip(play, self._size[0])
        spread = [round(i) for i in np.linspace(0, len(play.ticks) - 1, _SAMPLES)]
        sample = sorted({*spread, *np.flatnonzero(play.late)[:_SAMPLES].tolist()})  # their colours are rare
        self._game_palette = _palette([self._picture(index) for index in sample], _GAME_COLOURS)
        self._strip_palette = _palette([self._strip.draw(index) for index in sample], _STRIP_COLOURS)

    def frame(self, index: int) -> Image.Image:
        """Frame `index`, a palette image."""
        # The picture is reduced to the palette before it is enlarged: fast, and its pixels stay blocks.
        # Undithered: noise would crawl from frame to frame, and would not compress.
        picture = self._picture(index).quantize(palette=self._game_palette, dither=Image.Dither.NONE)
        strip = self._strip.draw(index).quantize(palette=self._strip_palette, dither=Image.Dither.NONE)
        indices = np.asarray(picture.resize(self._size, Image.Resampling.NEAREST))
        frame = Image.fromarray(np.vstack([indices, np.asarray(strip) + _GAME_COLOURS]))
        frame.putpalette([*_colours(self._game_palette, _GAME_COLOURS), *_colours(self._strip_palette)])
        return frame

    def _picture(self, index: int) -> Image.Image:
        return Image.fromarray(self._play.ticks[index].pixels)


def _palette(images: Sequence[Image.Image], count: int) -> Image.Image:
    """A palette image with the `count` colours that suit these pictures of one size best."""
    width, height = images[0].size
    montage = Image.new("RGB", (width, height * len(images)))
    for index, image in enumerate(images):
        montage.paste(image, (0, index * height))
    return montage.quantize(count, Image.Quantize.MEDIANCUT, kmeans=1)


def _colours(palette: Image.Image, count: int = 0) -> list[int]:
    """The palette's colours as Pillow wants them, filled up to `count` of them with black."""
    colours = palette.getpalette() or []
    return colours + [0] * (3 * count - len(colours))
