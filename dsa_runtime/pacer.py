"""Pacer: the beat of a loop that runs at a fixed rate."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from .errors import BudgetError

_PERIODS_TO_CATCH_UP = 3
_NS_PER_MS = 1e6


class Pacer:
    """Starts one tick per period, on a grid that does not drift however late single ticks begin.

        pacer = Pacer(1000 / 60)
        while running:
            pacer.wait()
            show(session.step(action(), pacer.period_ms).pixels)

    A tick that is late starts at once, and so do those after it until the loop is back on the grid. After a
    gap of more than three periods (the machine stood still, a debugger held the process, a laptop slept) the
    grid starts anew instead: what was missed stays missed and does not come in a burst.
    """

    def __init__(
        self,
        period_ms: float,
        *,
        spin_ms: float = 0.0,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """
        period_ms   time between the starts of two ticks, finite and above 0
        spin_ms     the last part of each wait is spent awake: less late on a machine with a core to spare
        clock_ns    monotonic clock in nanoseconds
        sleep       sleeps about that many seconds; it may wake early or late

        Raises `BudgetError`.
        """
        if not (period_ms > 0 and math.isfinite(period_ms)):
            raise BudgetError(f"period_ms: must be finite and greater than 0, got {period_ms}")
        if not (spin_ms >= 0 and math.isfinite(spin_ms)):
            raise BudgetError(f"spin_ms: must be finite and not negative, got {spin_ms}")
        self.period_ms = float(period_ms)
        self.resynced = 0
        """How often the grid has started anew after a gap."""
        self._spin_ns = spin_ms * _NS_PER_MS
        self._clock_ns, self._sleep = clock_ns, sleep
        # The grid is kept as a start and a count, so that rounding cannot add up to a drift.
        self._start_ns: int | None = None
        self._beat = 0

    def wait(self) -> float:
        """Sleep until the next tick's start. Returns how many milliseconds after it this call came back.

        The first call returns at once and fixes the grid.
        """
        if self._start_ns is None:
            self._start_ns = self._clock_ns()
            return 0.0
        self._beat += 1
        due_ns = self._start_ns + self._beat * self.period_ms * _NS_PER_MS
        while (left_ns := due_ns - self._spin_ns - self._clock_ns()) > 0:
            self._sleep(left_ns * 1e-9)
        while (now_ns := self._clock_ns()) < due_ns:
            pass
        late_ms = (now_ns - due_ns) / _NS_PER_MS
        if late_ms > _PERIODS_TO_CATCH_UP * self.period_ms:
            self._start_ns, self._beat = now_ns, 0
            self.resynced += 1
        return late_ms
