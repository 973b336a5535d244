"""Pacer: a grid that does not drift, and no burst after a gap. On a made-up clock."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dsa_runtime import errors
from dsa_runtime.pacer import Pacer

MS = 1_000_000


class Clock:
    """A clock that moves when somebody sleeps, works or looks at it."""

    def __init__(self, oversleep_ms: float = 0.0, look_ms: float = 0.0) -> None:
        self.now_ms = 5000.0
        self.slept_ms: list[float] = []
        self._oversleep_ms, self._look_ms = oversleep_ms, look_ms

    def clock_ns(self) -> int:
        self.now_ms += self._look_ms
        return round(self.now_ms * MS)

    def sleep(self, seconds: float) -> None:
        self.slept_ms.append(seconds * 1e3)
        self.now_ms += max(seconds * 1e3 + self._oversleep_ms, 0.01)

    def pacer(self, period_ms: float, **options: Any) -> Pacer:
        return Pacer(period_ms, clock_ns=self.clock_ns, sleep=self.sleep, **options)


def starts(clock: Clock, pacer: Pacer, work_ms: list[float]) -> list[float]:
    """When each tick began, since the first, if the ticks cost this much."""
    first, found = None, []
    for work in work_ms:
        pacer.wait()
        first = clock.now_ms if first is None else first
        found.append(clock.now_ms - first)
        clock.now_ms += work
    return found


def test_ticks_start_one_period_apart_whatever_they_cost() -> None:
    clock = Clock()
    assert starts(clock, clock.pacer(10.0), [0.0, 3.0, 9.5, 1.0, 0.0]) == pytest.approx([0, 10, 20, 30, 40], abs=1e-3)


def test_oversleeping_is_reported_and_does_not_add_up() -> None:
    clock = Clock(oversleep_ms=0.25)
    pacer = clock.pacer(1000 / 60)
    late = [pacer.wait() for _ in range(601)]
    assert late[0] == 0.0
    assert late[1:] == pytest.approx([0.25] * 600, abs=1e-3)
    assert clock.now_ms - 5000 == pytest.approx(10_000.25, abs=1e-3)


def test_a_late_tick_starts_at_once_and_the_loop_returns_to_the_grid() -> None:
    clock = Clock()
    pacer = clock.pacer(10.0)
    assert starts(clock, pacer, [25.0, 1.0, 1.0, 1.0, 1.0]) == pytest.approx([0, 25, 26, 30, 40], abs=1e-3)
    assert pacer.resynced == 0


def test_a_gap_of_three_periods_is_caught_up() -> None:
    clock = Clock()
    pacer = clock.pacer(10.0)
    assert starts(clock, pacer, [40.0, 0, 0, 0, 0, 0]) == pytest.approx([0, 40, 40, 40, 40, 50], abs=1e-3)
    assert pacer.resynced == 0


@pytest.mark.parametrize("gap_ms", [40.1, 60_000.0, 3e9], ids=["just over three periods", "a minute", "a month"])
def test_after_a_longer_gap_the_grid_starts_anew(gap_ms: float) -> None:
    clock = Clock()
    pacer = clock.pacer(10.0)
    expected = [0, gap_ms, gap_ms + 10, gap_ms + 20]
    assert starts(clock, pacer, [gap_ms, 0, 0, 0]) == pytest.approx(expected, abs=1e-3)
    assert pacer.resynced == 1


def test_a_gap_is_reported_in_full() -> None:
    clock = Clock()
    pacer = clock.pacer(10.0)
    pacer.wait()
    clock.now_ms += 70.0
    assert pacer.wait() == pytest.approx(60.0, abs=1e-3)
    assert pacer.wait() == pytest.approx(0.0, abs=1e-3)


def test_a_sleep_that_wakes_early_is_continued() -> None:
    clock = Clock(oversleep_ms=-0.5)
    pacer = clock.pacer(10.0)
    pacer.wait()
    assert pacer.wait() >= 0.0
    assert len(clock.slept_ms) > 1


def test_spinning_replaces_the_end_of_the_sleep() -> None:
    clock = Clock(oversleep_ms=1.0, look_ms=0.01)
    pacer = clock.pacer(10.0, spin_ms=1.5)
    pacer.wait()
    late = pacer.wait()
    assert clock.slept_ms == pytest.approx([8.5], abs=0.05)
    assert late <= 0.011  # oversleeping fell into the spin; what is left is one look at the clock


@pytest.mark.parametrize("period_ms", [0.0, -1.0, math.nan, math.inf])
def test_impossible_periods_are_refused(period_ms: float) -> None:
    with pytest.raises(errors.BudgetError, match="period_ms"):
        Pacer(period_ms)


@pytest.mark.parametrize("spin_ms", [-1.0, math.nan, math.inf])
def test_impossible_spins_are_refused(spin_ms: float) -> None:
    with pytest.raises(errors.BudgetError, match="spin_ms"):
        Pacer(10.0, spin_ms=spin_ms)


def test_the_real_clock_is_kept() -> None:
    pacer = Pacer(0.5, spin_ms=0.1)
    assert min(pacer.wait() for _ in range(20)) >= 0.0  # never before its time
