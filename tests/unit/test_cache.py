"""FrameCache and Window: bookkeeping of slots, sharing without copying, growth outside the tick."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest

from dsa_runtime.frame_cache import FrameCache, Window
from dsa_runtime.spec import CacheSpec


def make_cache(window: int = 4, sink: int = 0, capacity: int | None = None) -> FrameCache:
    return FrameCache(CacheSpec(2, 2, 4, 3, window, sink, 2, 100.0), capacity)


def push(window: Window, value: float) -> int:
    """What a commit does: write a fresh slot, then make it the newest frame."""
    slot = window.cache.allocate()
    with window.cache.writing():
        for pool in window.cache.pools:
            pool[slot] = value
    window.push(slot)
    return slot


def frames(window: Window) -> list[float]:
    """The marker values of the frames a window sees, oldest first."""
    return [float(window.cache.pools[0][slot, 0, 0, 0]) for slot in window.slots]


def table(window: Window) -> tuple[list[int], list[int]]:
    size = window.cache.spec.window
    slots, ages = np.full(size, 77, np.int32), np.full(size, 77, np.int32)
    window.write_table(slots, ages)
    return slots.tolist(), ages.tolist()


def test_pool_layout() -> None:
    cache = make_cache(capacity=5)
    assert [pool.shape for pool in cache.pools] == [(5, 3, 2, 4)] * 4  # key, value of two layers
    assert {pool.dtype for pool in cache.pools} == {np.dtype(np.float32)}
    assert cache.slot_bytes == sum(pool[0].nbytes for pool in cache.pools)
    assert all(not pool.any() for pool in cache.pools)


def test_table_fills_then_slides() -> None:
    window = make_cache(window=3).window()
    assert table(window) == ([-1, -1, -1], [1, 1, 1])
    first = push(window, 0.0)
    assert table(window) == ([first, -1, -1], [1, 1, 1])
    second = push(window, 1.0)
    assert table(window) == ([first, second, -1], [2, 1, 1])
    for value in range(2, 10):
        push(window, float(value))
        assert frames(window) == [float(v) for v in range(max(0, value - 2), value + 1)]
        assert table(window)[1] == [3, 2, 1]


def test_sink_frames_stay_and_stop_ageing() -> None:
    window = make_cache(window=4, sink=2).window()
    for value in range(8):
        push(window, float(value))
    assert frames(window) == [0.0, 1.0, 6.0, 7.0]
    assert table(window)[1] == [4, 3, 2, 1]


def test_a_sliding_window_never_uses_more_than_one_slot_extra() -> None:
    cache = make_cache(window=3, capacity=4)
    window = cache.window()
    for value in range(50):
        push(window, float(value))
        assert cache.used == min(value + 1, 3)
    assert cache.capacity == 4


def test_fork_shares_slots_and_copies_nothing() -> None:
    cache = make_cache(window=3, capacity=8)
    parent = cache.window()
    for value in range(3):
        push(parent, float(value))
    pools = [pool.copy() for pool in cache.pools]
    child = parent.fork()
    assert child.slots == parent.slots
    assert cache.used == 3
    for pool, before in zip(cache.pools, pools, strict=True):
        np.testing.assert_array_equal(pool, before)


def test_branches_never_touch_each_other() -> None:
    cache = make_cache(window=3)
    parent = cache.window()
    for value in range(3):
        push(parent, float(value))
    child = parent.fork()
    for step in range(6):
        push(child, 100.0 + step)
        push(parent, 200.0 + step)
    assert frames(parent) == [203.0, 204.0, 205.0]
    assert frames(child) == [103.0, 104.0, 105.0]
    parent.close()
    assert frames(child) == [103.0, 104.0, 105.0]
    assert cache.used == 3


def test_shared_slots_live_as_long_as_someone_needs_them() -> None:
    cache = make_cache(window=3)
    parent = cache.window()
    for value in range(3):
        push(parent, float(value))
    child = parent.fork()
    parent.close()
    assert cache.used == 3
    child.close()
    child.close()
    assert cache.used == 0


def test_reserving_grows_the_pools_and_keeps_their_contents() -> None:
    cache = make_cache(window=3, capacity=4)
    first = cache.window()
    for value in range(3):
        push(first, float(value))
    before = cache.pools
    second = cache.window()
    assert cache.capacity >= 8
    assert cache.pools is not before
    assert frames(first) == [0.0, 1.0, 2.0]
    grown = cache.pools
    for value in range(20):
        push(first, float(value))
        push(second, float(-value))
    assert cache.pools is grown  # ticks never grow
    assert frames(first) == [17.0, 18.0, 19.0]


def test_closed_windows_make_room() -> None:
    cache = make_cache(window=3, capacity=4)
    for _ in range(10):
        window = cache.window()
        push(window, 1.0)
        window.close()
    assert (cache.capacity, cache.used) == (4, 0)


def test_a_dropped_window_gives_its_slots_back() -> None:
    cache = make_cache(window=3, capacity=4)
    window = cache.window()
    push(window, 1.0)
    assert cache.used == 1
    del window
    gc.collect()
    assert cache.used == 0
    cache.window()
    assert cache.capacity == 4  # its reservation came back too


def test_growth_waits_for_a_write_in_progress() -> None:
    cache = make_cache(window=3, capacity=4)
    window = cache.window()
    slot = cache.allocate()
    writing, finish = threading.Event(), threading.Event()

    def write() -> None:
        with cache.writing():
            pools = cache.pools
            writing.set()
            finish.wait()
            for pool in pools:
                pool[slot] = 5.0

    writer = threading.Thread(target=write)
    writer.start()
    writing.wait()
    grower = threading.Thread(target=cache.window)
    grower.start()
    grower.join(0.05)
    assert grower.is_alive()
    assert cache.capacity == 4
    finish.set()
    writer.join()
    grower.join()
    window.push(slot)
    assert cache.capacity > 4
    assert frames(window) == [5.0]


@pytest.mark.parametrize("seed", range(3))
def test_many_threads_keep_the_books(seed: int) -> None:
    cache = make_cache(window=4, capacity=5)
    errors: list[str] = []

    def live(number: int) -> None:
        rng = np.random.default_rng((seed, number))
        windows = [cache.window()]
        seen: list[list[float]] = [[]]
        for step in range(150):
            which = int(rng.integers(len(windows)))
            choice = rng.random()
            if choice < 0.1 and len(windows) < 5:
                windows.append(windows[which].fork())
                seen.append(list(seen[which]))
            elif choice < 0.15 and len(windows) > 1:
                windows.pop(which).close()
                seen.pop(which)
            else:
                value = number * 1000.0 + step
                push(windows[which], value)
                seen[which] = [*seen[which], value][-4:]
            if any(frames(window) != values for window, values in zip(windows, seen, strict=True)):
                errors.append(f"thread {number} step {step}")
                break
        for window in windows:
            window.close()

    threads = [threading.Thread(target=live, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert cache.used == 0
