"""Canvas and Panel: drawing with smooth edges, in the coordinates of the finished picture or of the data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from .palette import BACKGROUND, MUTED, PANEL, TEXT, TRACK, Colour, font

_OVERSAMPLING = 2  # drawn this many times larger and reduced at the end


class Canvas:
    """An RGB picture of `width` x `height`. Coordinates are floats in final pixels, y downwards."""

    def __init__(self, width: int, height: int) -> None:
        self._size = (width, height)
        large = (width * _OVERSAMPLING, height * _OVERSAMPLING)
        self._image = Image.new("RGB", large, BACKGROUND)
        self._draw = ImageDraw.Draw(self._image)

    def rectangle(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """Filled; at least a hair wide and high, so that nothing drawn disappears."""
        x0, y0, x1, y1 = (value * _OVERSAMPLING for value in (left, top, right, bottom))
        self._draw.rectangle((x0, y0, max(x1 - 1, x0), max(y1 - 1, y0)), colour)

    def line(self, points: Sequence[tuple[float, float]], colour: Colour, width: float) -> None:
        scaled = [(x * _OVERSAMPLING, y * _OVERSAMPLING) for x, y in points]
        self._draw.line(scaled, colour, max(round(width * _OVERSAMPLING), 1), joint="curve")

    def dot(self, x: float, y: float, radius: float, colour: Colour) -> None:
        self._draw.circle((x * _OVERSAMPLING, y * _OVERSAMPLING), radius * _OVERSAMPLING, colour)

    def text(self, x: float, y: float, text: str, size: float, colour: Colour, anchor: str) -> None:
        """`anchor` as Pillow's: l, m, r and then s (base line), m, t."""
        where = (x * _OVERSAMPLING, y * _OVERSAMPLING)
        self._draw.text(where, text, colour, font(size * _OVERSAMPLING), anchor=anchor)

    def text_width(self, text: str, size: float) -> float:
        return self._draw.textlength(text, font(size * _OVERSAMPLING)) / _OVERSAMPLING

    def legend(self, right: float, baseline: float, entries: Sequence[tuple[str, Colour]]) -> None:
        """Names with a swatch of their colour, in order, ending at `right`."""
        x = right
        for name, colour in reversed(entries):
            x -= self.text_width(name, 15)
            self.text(x, baseline, name, 15, MUTED, "ls")
            self.rectangle(x - 18, baseline - 11, x - 7, baseline, colour)
            x -= 38

    def image(self) -> Image.Image:
        """The finished picture, RGB."""
        return self._image.resize(self._size, Image.Resampling.BOX)


class Panel:
    """A plot area on a canvas: a box of it, and a vertical scale from `low` (bottom) to `high` (top)."""

    def __init__(
        self, canvas: Canvas, left: float, right: float, top: float, bottom: float, low: float, high: float
    ) -> None:
        self._canvas, self._left, self._right, self._top, self._bottom = canvas, left, right, top, bottom
        self._low, self._high = low, high
        canvas.rectangle(left, top, right, bottom, PANEL)

    def title(self, text: str) -> None:
        self._canvas.text(self._left, self._top - 14, text, 17, TEXT, "ls")

    def grid(self, values: Iterable[float]) -> None:
        """A hairline and a number at each value."""
        for value in values:
            y = self._y(value)
            self._canvas.line([(self._left, y), (self._right, y)], TRACK, 0.5)
            self._canvas.text(self._left - 12, y, f"{value:g}", 15, MUTED, "rm")

    def column(self, index: int, count: int, low: float, high: float, colour: Colour) -> None:
        """The bar of item `index` of `count`, between two values."""
        width = (self._right - self._left) / count
        gap = 0.2 * width if width > 2 else 0.0
        left = self._left + index * width
        if high > low:
            self._canvas.rectangle(left, self._y(high), left + width - gap, self._y(low), colour)

    def row(self, low: float, high: float, share: float, colour: Colour) -> None:
        """A bar from the left edge, between two values, over a share of the width."""
        right = self._left + share * (self._right - self._left)
        self._canvas.rectangle(self._left, self._y(high), right, self._y(low), colour)

    def label(self, share: float, value: float, text: str) -> None:
        """A text that starts just after a share of the width, centred on a value."""
        x = self._left + share * (self._right - self._left) + 10
        self._canvas.text(x, self._y(value), text, 15, TEXT, "lm")

    def level(self, value: float, colour: Colour) -> None:
        """A dashed line across, at a value."""
        self._dashed([(self._left, self._y(value)), (self._right, self._y(value))], colour, 1.5)

    def curve(self, values: np.ndarray, colour: Colour, width: float, dashed: bool = False) -> None:
        """A line through one value per item; NaN breaks it."""
        points = self._points(values)
        known = np.isfinite(values)
        for run in np.split(np.arange(len(values)), np.flatnonzero(np.diff(known)) + 1):
            if known[run[0]] and len(run) > 1:
                part = [points[i] for i in run]
                (self._dashed if dashed else self._canvas.line)(part, colour, width)

    def dots(self, values: np.ndarray, colour: Colour) -> None:
        """A dot per item."""
        for x, y in self._points(values):
            self._canvas.dot(x, y, 2.2, colour)

    def _points(self, values: np.ndarray) -> list[tuple[float, float]]:
        pitch = (self._right - self._left) / len(values)
        return [
            (self._left + (i + 0.5) * pitch, self._y(value) if math.isfinite(value) else 0.0)
            for i, value in enumerate(values.tolist())
        ]

    def _dashed(self, points: Sequence[tuple[float, float]], colour: Colour, width: float) -> None:
        """Dashes follow x, which fits curves that are flat for long."""
        xs, ys = [x for x, _ in points], [y for _, y in points]
        starts = np.arange(xs[0], xs[-1], 14.0)
        for start in starts.tolist():
            ends = (start, min(start + 8.0, xs[-1]))
            self._canvas.line([(x, float(np.interp(x, xs, ys))) for x in ends], colour, width)

    def _y(self, value: float) -> float:
        share = (min(max(value, self._low), self._high) - self._low) / (self._high - self._low)
        return self._bottom - share * (self._bottom - self._top)


def ticks_of_axis(low: float, high: float, most: int = 7) -> list[float]:
    """Round numbers in [low, high]: at most `most` + 1 of them, 1, 2 or 5 times a power of ten apart."""
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= most)
    first = math.ceil(low / step)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]
