"""Strip: the read-out under each frame of the film."""

from __future__ import annotations

import math

from PIL import Image, ImageDraw

from .palette import ALARM, BACKGROUND, CONFIDENCE, LATENCY, MUTED, TEXT, TRACK, Colour, font, step_colour
from .play import Play

_MARGIN = 14
_GAP = 22
_LABEL, _VALUE = font(12), font(17)
_GAUGE_HEIGHT = 7
_BAR_PITCH = 4


class Strip:
    """Draws one strip per tick: steps, confidence and latency of the tick, and the steps of those before it."""

    height = 104

    def __init__(self, play: Play, width: int) -> None:
        self._play, self._width = play, width
        self._schedule = play.spec.schedule.steps
        budgets = [tick.budget_ms for tick in play.ticks if math.isfinite(tick.budget_ms)]
        # A budget without end has no line; where all are so, the bar is scaled by the slowest tick.
        self._full_ms = 1.25 * max(budgets or [tick.latency_ms["total"] for tick in play.ticks])

    def draw(self, index: int) -> Image.Image:
        """The strip for tick `index`, RGB, `width` x `height`."""
        image = Image.new("RGB", (self._width, self.height), BACKGROUND)
        draw = ImageDraw.Draw(image)
        column = (self._width - 2 * _MARGIN - 2 * _GAP) // 3
        lefts = [_MARGIN + i * (column + _GAP) for i in range(3)]
        self._draw_steps(draw, lefts[0], column, index)
        self._draw_confidence(draw, lefts[1], column, index)
        self._draw_latency(draw, lefts[2], column, index)
        self._draw_history(draw, index)
        return image

    def _draw_steps(self, draw: ImageDraw.ImageDraw, left: int, width: int, index: int) -> None:
        steps = self._play.ticks[index].steps
        _caption(draw, left, width, "STEPS", f"{steps} of {self._schedule}")
        pip = (width + 3) / self._schedule
        for k in range(self._schedule):
            colour = step_colour(steps, self._schedule) if k < steps else TRACK
            _bar(draw, left + round(k * pip), left + round((k + 1) * pip) - 3, colour)

    def _draw_confidence(self, draw: ImageDraw.ImageDraw, left: int, width: int, index: int) -> None:
        tick = self._play.ticks[index]
        _caption(draw, left, width, "CONFIDENCE", f"{tick.confidence:.2f}")
        _bar(draw, left, left + width, TRACK)
        _bar(draw, left, left + round(width * min(max(tick.confidence, 0.0), 1.0)), CONFIDENCE)
        if tick.threshold is not None:
            _mark(draw, left + round(width * tick.threshold))

    def _draw_latency(self, draw: ImageDraw.ImageDraw, left: int, width: int, index: int) -> None:
        tick = self._play.ticks[index]
        colour = LATENCY if tick.status == "ok" else ALARM
        total_ms = tick.latency_ms["total"]
        caption = "LATENCY" if tick.status == "ok" else tick.status.upper()
        _caption(draw, left, width, caption, f"{total_ms:.1f} ms", MUTED if tick.status == "ok" else ALARM)
        _bar(draw, left, left + width, TRACK)
        _bar(draw, left, left + round(width * min(total_ms / self._full_ms, 1.0)), colour)
        if math.isfinite(tick.budget_ms):
            _mark(draw, left + round(width * tick.budget_ms / self._full_ms))

    def _draw_history(self, draw: ImageDraw.ImageDraw, index: int) -> None:
        """Steps of the last ticks, the newest at the right, beside what the player does."""
        top, bottom = 60, self.height - 12
        draw.text((_MARGIN, top), self._play.actions[index], TEXT, _VALUE)
        draw.text((_MARGIN, bottom), f"tick {self._play.ticks[index].tick}", MUTED, _LABEL, anchor="ls")
        left, right = _MARGIN + (self._width - 2 * _MARGIN - 2 * _GAP) // 3 + _GAP, self._width - _MARGIN
        shown = (right - left) // _BAR_PITCH
        draw.line((left, bottom, right - 1, bottom), TRACK)
        for age in range(min(shown, index + 1)):
            steps = self._play.ticks[index - age].steps
            height = round((bottom - top - 2) * steps / self._schedule)
            x = right - (age + 1) * _BAR_PITCH + 1
            box = (x, bottom - 1 - height, x + _BAR_PITCH - 2, bottom - 1)
            draw.rectangle(box, step_colour(steps, self._schedule))


def _caption(draw: ImageDraw.ImageDraw, left: int, width: int, label: str, value: str, colour: Colour = MUTED) -> None:
    draw.text((left, 29), label, colour, _LABEL, anchor="ls")
    draw.text((left + width, 29), value, TEXT, _VALUE, anchor="rs")


def _bar(draw: ImageDraw.ImageDraw, left: int, right: int, colour: Colour) -> None:
    if right > left:
        draw.rectangle((left, 37, right - 1, 37 + _GAUGE_HEIGHT - 1), colour)


def _mark(draw: ImageDraw.ImageDraw, x: int) -> None:
    draw.rectangle((x - 1, 34, x, 37 + _GAUGE_HEIGHT + 2), TEXT)
