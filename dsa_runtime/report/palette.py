"""Colours and fonts that the film and the chart share."""

from __future__ import annotations

import functools

from PIL import ImageFont

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

BACKGROUND: Colour = (16, 18, 23)
PANEL: Colour = (25, 28, 35)
TRACK: Colour = (46, 51, 62)
TEXT: Colour = (236, 239, 244)
MUTED: Colour = (139, 148, 163)
CONFIDENCE: Colour = (104, 165, 255)
LATENCY: Colour = (122, 196, 124)
ALARM: Colour = (240, 82, 95)

# Few steps are cool, many are warm. Distinct in brightness too, for readers who do not see the hue.
_STEP_RAMP: tuple[Colour, ...] = ((44, 122, 140), (72, 187, 158), (244, 205, 100), (238, 118, 82))


def step_colour(step: int, schedule_steps: int) -> Colour:
    """The colour of a frame that took `step` of `schedule_steps` denoising steps."""
    share = (step - 1) / max(schedule_steps - 1, 1) * (len(_STEP_RAMP) - 1)
    index = min(int(share), len(_STEP_RAMP) - 2)
    return mix(_STEP_RAMP[index], _STEP_RAMP[index + 1], share - index)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """`first` at share 0, `second` at share 1."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


@functools.lru_cache
def font(size: float) -> Font:
    """Pillow's own font: the same everywhere, and no file to find."""
    return ImageFont.load_default(size)
