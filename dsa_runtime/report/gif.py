"""GIF: in one palette for the whole film, written frame by frame, and of each frame only what has changed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import GifImagePlugin, Image

from .palette import BACKGROUND
from .pictures import Pictures

SAMPLES = 64
"""Frames that are enough to find a palette from."""
_COLOURS = 256
_STRIP_COLOURS = 56


class GifPalette:
    """The colours of a film, found from some of its frames.

    Picture and read-out have their own parts: the read-out has few pixels, and would lose its colours to the
    picture or lend it wrong ones.
    """

    def __init__(self, pictures: Sequence[np.ndarray], strips: Sequence[Image.Image]) -> None:
        """`pictures` are `uint8[H, W, 3]` as the world draws them; `strips` is empty for plain films."""
        margin = Image.new("RGB", strips[0].size if strips else (1, 1), BACKGROUND)
        split = _COLOURS - _STRIP_COLOURS
        self._picture = _palette([Image.fromarray(pixels) for pixels in pictures], split)
        self._rest = _palette([*strips, margin], _STRIP_COLOURS)
        colours = (self._picture.getpalette() or [])[: 3 * split]
        self._colours = [*colours, *[0] * (3 * split - len(colours)), *(self._rest.getpalette() or [])]
        self._split = split
        self.background = int(self.rest(margin)[0, 0])

    def picture(self, pixels: np.ndarray) -> np.ndarray:
        """Indices `uint8[H, W]` for a picture of the world."""
        # Undithered: noise would crawl from frame to frame, and would not compress.
        return np.asarray(Image.fromarray(pixels).quantize(palette=self._picture, dither=Image.Dither.NONE))

    def rest(self, image: Image.Image) -> np.ndarray:
        """Indices `uint8[H, W]` for everything else."""
        indices = np.asarray(image.quantize(palette=self._rest, dither=Image.Dither.NONE))
        return (indices + self._split).astype(np.uint8)

    def header(self, size: tuple[int, int]) -> bytes:
        """The file's first bytes: its size, this palette, and that it repeats for ever."""
        screen = Image.new("P", size)
        screen.putpalette(self._colours)
        blocks, _ = GifImagePlugin.getheader(screen, info={"loop": 0, "optimize": False})
        return b"".join(blocks)


def write_gif(
    path: Path,
    pictures: Pictures,
    palette: GifPalette,
    period_ms: float,
    count: int,
    frames: Iterable[tuple[int, np.ndarray]],
) -> None:
    """Write `count` frames as they come, `period_ms` each: the place of their tick, for its read-out, and the picture,
    `uint8[H, W, 3]` as the world draws it."""
    # Pillow writes an animation only from all of its frames at once. Its function for one frame's blocks has no memory.
    shown: np.ndarray | None = None
    with path.open("wb") as file:
        file.write(palette.header(pictures.size))
        for (index, pixels), duration_ms in zip(frames, gif_durations_ms(count, period_ms), strict=True):
            frame = _indices(pictures, palette, index, pixels)
            top, bottom, left, right = _changed(shown, frame)
            changed = Image.fromarray(frame[top:bottom, left:right])
            for block in GifImagePlugin.getdata(changed, (left, top), duration=duration_ms, disposal=1):
                file.write(block)
            shown = frame
        file.write(b";")


def spread(count: int) -> list[int]:
    """Places of frames to find a palette from: `SAMPLES` of `count`, evenly."""
    return [round(place) for place in np.linspace(0, count - 1, min(count, SAMPLES))]


def gif_durations_ms(frames: int, period_ms: float) -> list[int]:
    """How long each frame is shown. GIF counts in 10 ms, so the remainders are carried on: no drift.

    Browsers slow anything below 20 ms down to 100 ms, so that is the shortest.
    """
    period_ms = max(period_ms, 20.0)
    edges = [round(index * period_ms / 10) for index in range(frames + 1)]
    return [10 * (end - start) for start, end in itertools.pairwise(edges)]


def _indices(pictures: Pictures, palette: GifPalette, index: int, pixels: np.ndarray) -> np.ndarray:
    """The film's frame as `uint8[H, W]` into the palette: reduced before it is enlarged, so that blocks stay blocks."""
    width, height = pictures.size
    frame = np.full((height, width), palette.background, np.uint8)
    shown = Image.fromarray(palette.picture(pixels)).resize(pictures.picture_size, Image.Resampling.NEAREST)
    frame[: shown.height, pictures.left : pictures.left + shown.width] = np.asarray(shown)
    strip = pictures.strip(index)
    if strip is not None:
        frame[shown.height : shown.height + strip.height, : strip.width] = palette.rest(strip)
    return frame


def _changed(before: np.ndarray | None, after: np.ndarray) -> tuple[int, int, int, int]:
    """The rows [top, bottom) and columns [left, right) that hold every difference; at least one pixel."""
    if before is None:
        return 0, after.shape[0], 0, after.shape[1]
    differs = before != after
    rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
    if not len(rows):
        return 0, 1, 0, 1
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _palette(images: Sequence[Image.Image], count: int) -> Image.Image:
    """A palette image with the `count` colours that suit these pictures of one width best."""
    montage = Image.new("RGB", (images[0].width, sum(image.height for image in images)))
    top = 0
    for image in images:
        montage.paste(image, (0, top))
        top += image.height
    return montage.quantize(count, Image.Quantize.MEDIANCUT, kmeans=1)
