"""Capacity: how many sessions a device keeps at their rate, and what they cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from .decoder import Decoder
from .device import Device
from .efficiency import Efficiency
from .memory import memory_of
from .precision import Precision
from .shape import Shape
from .tick import tick_time

HOST_MS = 0.31
"""Of the host for one session's tick, outside the engine: tests/bench/results/bench-overhead-epyc-2core.json, exactly
2 steps, back to back. One thread makes the ticks of a batch, so this adds up over its sessions."""
USABLE_MEMORY = 0.9
"""Share of a device's memory that is left by context, libraries and fragmentation: an assumption."""
_MOST = 1 << 16


@dataclass(frozen=True)
class Capacity:
    """Sessions in one batch on one device."""

    sessions: int
    """0: not even one keeps its rate, or has room."""
    limit: Literal["device", "host", "memory"]
    """What one session more would exceed; `host` where more than half of the time is its."""
    tick_ms: float
    """Of that batch (of one session, if there is room for none)."""

    def devices(self, players: int) -> int | None:
        """For so many sessions at a time; None if a device keeps none."""
        return math.ceil(players / self.sessions) if self.sessions else None

    def session_hour(self, price: float) -> float | None:
        """What a session costs in an hour, at this price of a device; None if a device keeps none."""
        return price / self.sessions if self.sessions else None


def capacity(
    shape: Shape, decoder: Decoder, device: Device, precision: Precision, efficiency: Efficiency, steps: float
) -> Capacity:
    """The largest batch whose ticks of `steps` steps in the mean end within the period, and that has room."""
    memory = memory_of(shape, decoder, precision)

    def device_ms(sessions: int) -> float:
        return tick_time(shape, decoder, device, precision, efficiency, batch=sessions).period_ms(steps)

    def roomy(sessions: int) -> bool:
        return memory.of(sessions) <= USABLE_MEMORY * device.memory

    def on_time(sessions: int) -> bool:
        return device_ms(sessions) + sessions * HOST_MS <= shape.period_ms

    low, high = 0, 1
    while high < _MOST and on_time(high) and roomy(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if on_time(middle) and roomy(middle) else (low, middle)
    shown = max(low, 1)
    tick_ms = device_ms(shown) + shown * HOST_MS
    if on_time(low + 1):
        return Capacity(low, "memory", tick_ms)
    return Capacity(low, "host" if shown * HOST_MS > tick_ms / 2 else "device", tick_ms)
