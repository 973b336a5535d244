"""Pictures: the frames of a film, each with the read-out of its tick under it, or plain."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..spec import FrameSpec
from .palette import BACKGROUND
from .play import Play
from .strip import Strip

_PICTURE_HEIGHT = 384
_STRIP_WIDTH = 448
"""Below it the read-outs of a strip would run into each other; a narrower picture stands in the middle."""


class Pictures:
    """Draws picture by picture. `size` is the film's width and height in pixels, both even as H.264 wants them."""

    def __init__(self, frame: FrameSpec, play: Play | None, scale: int | None = None) -> None:
        """
        play    whose ticks are read out, their `pixels` are not looked at; None for plain pictures
        scale   pixels per pixel of the world, vertically; None for about 384 pixels of height. The width follows
                from the world's display aspect
        """
        width, height = self.picture_size = _scaled(frame, scale)
        self._strip: Strip | None = None
        self._drawn: tuple[int, Image.Image] | None = None
        if play is not None:
            width = max(width, _STRIP_WIDTH)
            height += Strip.height
            self._strip = Strip(play, width)
        self.size = (width + width % 2, height + height % 2)

    @property
    def left(self) -> int:
        """Where the picture begins, from the film's left edge."""
        return (self.size[0] - self.picture_size[0]) // 2

    def strip(self, index: int) -> Image.Image | None:
        """The read-out of the tick at this place of the play, RGB, not to be drawn on; None for plain pictures."""
        if self._strip is None:
            return None
        if self._drawn is None or self._drawn[0] != index:  # the pictures of a tick have it in common
            self._drawn = index, self._strip.draw(index)
        return self._drawn[1]

    def draw(self, index: int, pixels: np.ndarray) -> Image.Image:
        """The film's frame, RGB: a picture of that tick, `uint8[H, W, 3]`."""
        frame = Image.new("RGB", self.size, BACKGROUND)
        picture = Image.fromarray(pixels).resize(self.picture_size, Image.Resampling.NEAREST)
        frame.paste(picture, (self.left, 0))
        strip = self.strip(index)
        if strip is not None:
            frame.paste(strip, (0, self.picture_size[1]))
        return frame


def _scaled(frame: FrameSpec, scale: int | None) -> tuple[int, int]:
    """Width and height: the display aspect, and a whole multiple of the height."""
    height = frame.height * (max(1, round(_PICTURE_HEIGHT / frame.height)) if scale is None else scale)
    return round(height * frame.display_aspect[0] / frame.display_aspect[1]), height
