"""A session that plays for long does not grow: neither Python's objects, nor memory, nor the pools."""

from __future__ import annotations

import gc
import math
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dsa_runtime import CancelledError, DeadlineError, Session, World
from tests.bench.bench_memory import resident_bytes
from tests.stages import patch_stage, settle

WARM_UP, TICKS = 200, 1000
MIB = 1 << 20

needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")


@pytest.fixture
def traced() -> Iterator[None]:
    """What the whole test run has on its heap, torch above all, is left out: it is slow to collect and count, and
    may itself come and go."""
    gc.collect()
    gc.freeze()
    tracemalloc.start()
    yield
    tracemalloc.stop()
    gc.unfreeze()


def growth(session: Session, tick: Callable[[int], object], warm_up: int, ticks: int) -> tuple[int, int]:
    """By how many objects and by how many traced bytes the process grows in `ticks` calls after the warm-up. Some
    single objects may be others': threads that end, caches that fill."""
    # The latest costs of each stage are kept. Those lists are full from the start: steps that few ticks take would
    # take long to fill theirs.
    window, steps = session.latency.window, session._runtime.spec.schedule.steps
    for stage in ("decode", "commit", *(f"denoise {step}" for step in range(1, steps + 1))):
        session.latency.prime({stage: [1.0 + number / 1e4 for number in range(window)]})
    counts = []
    for rounds in (warm_up, ticks):
        for number in range(rounds):
            tick(number)
        settle(session)
        gc.collect()
        counts.append((len(gc.get_objects()), tracemalloc.get_traced_memory()[0]))
    (objects, traced), (more_objects, more_traced) = counts
    return more_objects - objects, more_traced - traced


@pytest.mark.parametrize(
    "options",
    [{}, {"history": 7}, {"on_miss": "repeat", "history": 2}, {"on_miss": "raise"}],
    ids=["plain", "history", "repeat", "raise"],
)
def test_thousands_of_ticks(tiny_world: World, traced: None, options: dict[str, Any]) -> None:
    with tiny_world.session(0, **options) as session:
        cache, threads = tiny_world._cache, threading.active_count()
        for number in range(options.get("history", 0)):
            session.step(number % 4, math.inf)
        settle(session)
        pools, used = cache.pools, cache.used
        objects, traced_bytes = growth(session, lambda number: session.step(number % 4, math.inf), WARM_UP, TICKS)
        assert cache.pools is pools
        assert cache.used == used
        assert threading.active_count() <= threads + 1
    assert objects < TICKS / 20
    assert traced_bytes < 24 * TICKS  # less than one float per tick; a frame has 192 bytes


def test_the_recording_is_what_grows(tiny_world: World, traced: None) -> None:
    """That these tests would see something."""
    with tiny_world.session(0, record=True) as session:
        objects, traced_bytes = growth(session, lambda number: session.step(number % 4, math.inf), WARM_UP, 500)
    assert objects > 0.9 * 500
    assert traced_bytes > 24 * 500


def test_ticks_that_fail_late_or_are_cancelled(
    tiny_world: World, traced: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tiny_world.session(0, on_miss="raise") as session:
        moment = threading.Event()

        def stop(*_: Any) -> None:
            if moment.is_set():
                session.cancel()

        patch_stage(monkeypatch, "decode", stop)

        def tick(number: int) -> None:
            moment.clear() if number % 3 else moment.set()
            with suppress(CancelledError, DeadlineError):
                session.step(number % 4, 1e-3 if number % 3 == 1 else math.inf)

        objects, traced_bytes = growth(session, tick, WARM_UP, TICKS)
    assert objects < TICKS / 20
    assert traced_bytes < 24 * TICKS


def test_every_way_of_going_on(tiny_world: World, traced: None) -> None:
    """Branches that play and are closed, snapshots, rewinds, resets."""
    with tiny_world.session(0, history=4) as session:
        used, rounds = [], 100

        def tick(number: int) -> None:
            for action in range(2):
                session.step(action, math.inf)
            branches = session.fork(2)
            for branch in branches:
                branch.step(number % 4, math.inf)
                branch.close()
            session.rewind(2)
            session.restore(session.snapshot())
            if number % 10 == 0:
                session.reset(number)
                used.append(tiny_world._cache.used)

        pools = tiny_world._cache.pools
        objects, traced_bytes = growth(session, tick, rounds, rounds)
        assert tiny_world._cache.pools is pools
    assert len(set(used)) == 1
    assert objects < rounds / 10
    assert traced_bytes < 128 * rounds  # of some 15,000 bytes that a round takes up and gives back


@needs_proc
def test_resident_memory(tiny_world: World) -> None:
    with tiny_world.session(0, history=4) as session:
        sizes = []
        for ticks in (1000, 2000):
            for number in range(ticks):
                session.step(number % 4, math.inf)
            sizes.append(resident_bytes())
    assert sizes[1] - sizes[0] < MIB  # 500 bytes per tick


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"history": 100, "on_miss": "repeat"}], ids=["plain", "history"])
def test_resident_memory_over_a_hundred_thousand_ticks(tiny_world: World, options: dict[str, Any]) -> None:
    with tiny_world.session(0, **options) as session:
        pools, sizes = tiny_world._cache.pools, []
        for ticks in (10_000, 90_000):
            for number in range(ticks):
                session.step(number % 4, math.inf)
            sizes.append(resident_bytes())
        assert tiny_world._cache.pools is pools
    assert sizes[1] - sizes[0] < MIB
