"""Pictures: the frames of a film, each with the read-out of its tick under it, or plain."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ..commands.player import describe
from ..errors import DsaError
from ..recording import Recording
from ..report.film import picture_size
from ..report.palette import BACKGROUND
from ..report.play import Play
from ..report.strip import Strip
from ..spec import FrameSpec, WorldSpec
from ..tick import Tick

_STRIP_WIDTH = 448
"""Below it the read-outs of a strip would run into each other; a narrower picture stands in the middle."""
_LARGEST = 4096
"""Pixels on a side: what H.264 decoders and GIF viewers can be expected to take."""


class Pictures:
    """Draws tick by tick. `size` is the films' width and height in pixels, both even as H.264 wants them."""

    def __init__(self, spec: WorldSpec, recording: Recording, ticks: Sequence[Tick], scale: int | None) -> None:
        """
        ticks   the recording's, in order; their `pixels` are not looked at. None of them for plain pictures
        scale   pixels per pixel of the world, vertically; None for about 384 pixels of height. The width follows
                from the world's display aspect. Raises `DsaError` for a film that no player would take
        """
        self.picture_size = _scaled(spec.frame, scale)
        self._strip = None
        width, height = self.picture_size
        if ticks:
            words = tuple(describe(spec.action_space, entry.action) for entry in recording.decisions)
            play = Play(spec, recording.seed, math.inf, words, tuple(ticks), math.nan, None)
            width = max(width, _STRIP_WIDTH)
            height += Strip.height
            self._strip = Strip(play, width)
        self.size = (width + width % 2, height + height % 2)
        if max(self.size) > _LARGEST:
            raise DsaError(f"scale: {width} x {height} pixels are too many for a film; choose a smaller --scale")

    @property
    def left(self) -> int:
        """Where the picture begins, from the film's left edge."""
        return (self.size[0] - self.picture_size[0]) // 2

    def strip(self, index: int) -> Image.Image | None:
        """The read-out of the tick at this place of the recording, RGB; None for plain pictures."""
        return None if self._strip is None else self._strip.draw(index)

    def draw(self, index: int, pixels: np.ndarray) -> Image.Image:
        """The film's frame, RGB. `pixels` is that tick's, `uint8[H, W, 3]`."""
        frame = Image.new("RGB", self.size, BACKGROUND)
        picture = Image.fromarray(pixels).resize(self.picture_size, Image.Resampling.NEAREST)
        frame.paste(picture, (self.left, 0))
        strip = self.strip(index)
        if strip is not None:
            frame.paste(strip, (0, self.picture_size[1]))
        return frame


def _scaled(frame: FrameSpec, scale: int | None) -> tuple[int, int]:
    if scale is None:
        return picture_size(frame)
    height = frame.height * scale
    return round(height * frame.display_aspect[0] / frame.display_aspect[1]), height
