"""Published figures of the 1.3B shape, which the model is held against.

Dynamic Step Allocation (arXiv 2606.04432) gives frames per second at 480x832 on one H100 for 1 to 4 fixed steps. A film
of theirs is 7 chunks of 3 latent frames, which are 81 pictures, since a stream's first latent is one picture. The
window fills from chunk to chunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .cost import total
from .device import DEVICES
from .efficiency import Efficiency
from .precision import PRECISIONS
from .stages import commit_cost, decode_cost, step_cost
from .tick import TickTime, tick_time
from .wan import WAN_SHAPES

FPS = {1: 27.75, 2: 22.97, 3: 19.63, 4: 16.33}
"""By fixed steps."""
ADAPTIVE_STEPS, ADAPTIVE_FPS = 16 / 7, 22.01
"""7 chunks in 16 steps, with the larger teacher; left out of the fit, which has to foretell it."""
CHUNKS, PICTURES = 7, 81
SHAPE, DEVICE, PRECISION = WAN_SHAPES["wan-1.3b"], DEVICES["h100-sxm"], PRECISIONS["bf16"]
_FILLED = (CHUNKS - 1) // 2
"""Chunks in the window in the mean over a film: operations and bytes grow in proportion to it."""


@dataclass(frozen=True)
class Fit:
    """Time of a chunk as a part that does not depend on the steps and one that is proportional to them."""

    fixed_ms: float
    step_ms: float

    def fps(self, steps: float) -> float:
        return PICTURES / CHUNKS * 1e3 / (self.fixed_ms + steps * self.step_ms)


def fit(fps: Mapping[int, float] = FPS) -> Fit:
    """Least squares over the chunk times that the rates imply."""
    times = {steps: 1e3 * PICTURES / CHUNKS / rate for steps, rate in fps.items()}
    mean_steps, mean_ms = sum(times) / len(times), sum(times.values()) / len(times)
    step_ms = sum((steps - mean_steps) * (ms - mean_ms) for steps, ms in times.items()) / sum(
        (steps - mean_steps) ** 2 for steps in times
    )
    return Fit(mean_ms - mean_steps * step_ms, step_ms)


@dataclass(frozen=True)
class Implied:
    """Shares of the H100's peak in 16 bits that explain the fit by this model's operations."""

    step: float
    decode: float
    """If a commit runs at a step's rate, and the decoder is all that is left of the fixed part."""


def implied(found: Fit) -> Implied:
    """What the fit says about the code that was measured."""
    peak = DEVICE.flops["bf16"]
    step = total(step_cost(SHAPE, PRECISION, filled=_FILLED)).flops / (found.step_ms * 1e-3)
    commit_ms = 1e3 * total(commit_cost(SHAPE, PRECISION, filled=_FILLED)).flops / step
    pictures = PICTURES / CHUNKS / SHAPE.pictures
    decode = total(decode_cost(SHAPE.decoders[0], PRECISION)).flops * pictures
    return Implied(step / peak, decode / ((found.fixed_ms - commit_ms) * 1e-3) / peak)


def predicted_fps(steps: float, efficiency: Efficiency) -> float:
    """What the model says about such a film, decoded by the full decoder."""
    time = tick_time(SHAPE, SHAPE.decoders[0], DEVICE, PRECISION, efficiency, filled=_FILLED)
    pictures = PICTURES / CHUNKS / SHAPE.pictures
    film = TickTime(time.step_ms, time.commit_ms, time.decode_ms * pictures)
    return PICTURES / CHUNKS * 1e3 / film.period_ms(steps)
