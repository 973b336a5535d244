"""Tick: the time of its stages together."""

from __future__ import annotations

from dataclasses import dataclass

from .decoder import Decoder
from .device import Device
from .efficiency import Efficiency
from .precision import Precision
from .roofline import latency_ms
from .shape import Shape
from .stages import commit_cost, decode_cost, step_cost


@dataclass(frozen=True)
class TickTime:
    """Milliseconds of the stages of a tick. They follow one another; nothing is taken to overlap."""

    step_ms: float
    commit_ms: float
    decode_ms: float

    def latency_ms(self, steps: float) -> float:
        """From the call to its pictures; the commit comes afterwards."""
        return steps * self.step_ms + self.decode_ms

    def period_ms(self, steps: float) -> float:
        """From tick to tick, back to back."""
        return self.latency_ms(steps) + self.commit_ms


def tick_time(
    shape: Shape,
    decoder: Decoder | None,
    device: Device,
    precision: Precision,
    efficiency: Efficiency,
    *,
    filled: int | None = None,
    batch: int = 1,
) -> TickTime:
    """Of `batch` sessions, with `filled` ticks in the window (None: all); without a decoder, up to the latents."""
    given = (device, precision, efficiency)
    return TickTime(
        latency_ms(step_cost(shape, precision, filled=filled, batch=batch), *given),
        latency_ms(commit_cost(shape, precision, filled=filled, batch=batch), *given),
        0.0 if decoder is None else latency_ms(decode_cost(decoder, precision, batch=batch), *given),
    )
