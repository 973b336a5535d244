"""ResponseConfig: sizes of the response to actions, whichever kind of actions a world has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ResponseConfig:
    """Sizes of the evaluation."""

    cases: int = 64
    hold: int = 8
    """Ticks for which a constant action is held; the last one is the far horizon."""
    horizons: tuple[int, ...] = (1, 4, 8, 16)
    net_turn_deg: float = 14.0
    """Over the whole hold, a turn is one of at least this much to the right side: half of what the slowest real turn
    of 3.5 degrees a tick makes in 8 ticks. Waiting is less than this to either side."""
    flash_over: int = 5
    """From this tick on, a flash under "noop" cannot come from a trigger pulled before."""
    seed: int = 0
