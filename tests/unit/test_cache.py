"""FrameCache and Window: bookkeeping of slots, sharing without copying, growth outside the tick."""

from __future__ import annotations

import gc
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsa_runtime import frame_cache
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


def test_many_branches_at_once_share_every_slot() -> None:
    cache = make_cache(window=3)
    parent = cache.window()
    for value in range(3):
        push(parent, float(value))
    pools, before = cache.pools, [pool.copy() for pool in cache.pools]
    branches = cache.fork(parent, 64)
    assert len({id(branch) for branch in branches}) == 64
    assert {branch.slots for branch in branches} == {parent.slots}
    assert cache.used == 3
    assert cache.pools is pools
    assert all(np.array_equal(*pair) for pair in zip(pools, before, strict=True))
    parent.close()
    for index, branch in enumerate(branches):
        push(branch, 100.0 + index)
    assert [frames(branch) for branch in branches] == [[1.0, 2.0, 100.0 + index] for index in range(64)]
    assert cache.used == 2 + 64
    for branch in branches[1:]:
        branch.close()
    assert cache.used == 3
    assert frames(branches[0]) == [1.0, 2.0, 100.0]


def test_forking_reserves_for_all_branches_at_once() -> None:
    cache = make_cache(window=3, capacity=4)
    parent = cache.window()
    for value in range(3):
        push(parent, float(value))
    branches = cache.fork(parent, 10, history=2)
    pools = cache.pools
    assert cache.capacity >= 4 + 10 * 6
    for value in range(9):
        for branch in (parent, *branches):
            push(branch, float(value))
    assert cache.pools is pools  # no tick grows them
    assert cache.used == 3 + 10 * 5


def test_no_branches() -> None:
    cache = make_cache(window=3, capacity=4)
    assert cache.fork(cache.window(), 0) == []
    assert cache.capacity == 4


def test_dropped_branches_give_their_slots_back() -> None:
    cache = make_cache(window=3, capacity=64)
    parent = cache.window()
    push(parent, 0.0)
    branches = cache.fork(parent, 15)
    for branch in branches:
        push(branch, 1.0)
    assert cache.used == 16
    del branches, branch
    gc.collect()
    assert cache.used == 1
    cache.fork(parent, 15)
    assert cache.capacity == 64


def test_branches_that_do_not_fit_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = make_cache(window=3, capacity=8)
    parent = cache.window()
    push(parent, 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(frame_cache.np, "zeros", no_memory)
        with pytest.raises(MemoryError):
            cache.fork(parent, 64)
        cache.fork(parent, 1)[0].close()  # this one needs no memory: the reservation was taken back
    parent.close()
    assert (cache.capacity, cache.used) == (8, 0)


def no_memory(*_: Any, **__: Any) -> None:
    raise MemoryError


def test_a_window_goes_back_as_far_as_its_history() -> None:
    cache = make_cache(window=3, sink=1, capacity=3 + 1 + 4)
    window = cache.window(history=4)
    seen = []
    for value in range(20):
        push(window, float(value))
        seen.append(frames(window))
    for back in (0, 1, 3):  # in all as many as it keeps
        window.rewind(back)
        del seen[len(seen) - back :]
        assert frames(window) == seen[-1]
    assert cache.used == 3
    for value in range(50):  # and goes on from there within what was reserved
        push(window, 100.0 + value)
    assert frames(window) == [0.0, 148.0, 149.0]
    assert (cache.capacity, cache.used) == (8, 7)
    window.close()
    assert cache.used == 0


def test_a_branch_does_not_lose_what_its_parent_takes_back() -> None:
    cache = make_cache(window=3)
    parent = cache.window(history=5)
    for value in range(6):
        push(parent, float(value))
    (branch,) = cache.fork(parent, 1)
    parent.rewind(3)
    for value in range(20):
        push(parent, 100.0 + value)
    assert frames(branch) == [3.0, 4.0, 5.0]
    del parent
    gc.collect()
    assert cache.used == 3


def test_slots_are_read_and_written_as_a_whole() -> None:
    cache = make_cache(window=3, capacity=8)
    rng = np.random.default_rng(0)
    source = [rng.normal(size=(3, *cache.spec.slot_shape)).astype(np.float32) for _ in cache.pools]
    cache.allocate()
    slots = [cache.allocate() for _ in range(3)][::-1]
    cache.write(slots, source)
    copies = cache.read(slots)
    for copy, array, pool in zip(copies, source, cache.pools, strict=True):
        np.testing.assert_array_equal(copy, array)
        np.testing.assert_array_equal(pool[slots[0]], array[0])
        assert not pool[0].any()  # the slots beside were left alone
        assert not np.shares_memory(copy, pool)


def test_the_first_pools_are_measured_by_address_space(monkeypatch: pytest.MonkeyPatch) -> None:
    session_bytes = make_cache(window=3, capacity=4).slot_bytes * 4
    assert make_cache(window=3).capacity == 256 * 4
    monkeypatch.setattr(frame_cache, "_FIRST_BYTES", 20 * session_bytes + 1)
    assert make_cache(window=3).capacity == 20 * 4
    monkeypatch.setattr(frame_cache, "_FIRST_BYTES", 1)
    assert make_cache(window=3).capacity == 8 * 4


def test_where_address_space_is_scarce_the_first_pools_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    real = np.zeros

    def scarce(shape: Any, dtype: Any) -> np.ndarray:
        if shape[0] > 8 * 4:
            raise MemoryError
        return real(shape, dtype)

    monkeypatch.setattr(frame_cache.np, "zeros", scarce)
    assert make_cache(window=3).capacity == 8 * 4
    with pytest.raises(MemoryError):
        make_cache(window=3, capacity=100)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_unwritten_slots_take_no_memory() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    before = resident()
    cache = FrameCache(CacheSpec(4, 4, 64, 64, 4, 0, 2, 100.0), capacity=1024)  # 512 MiB
    windows = [cache.window() for _ in range(3)]
    for window in windows:
        for value in range(9):
            push(window, float(value))
    pools = cache.pools
    cache.reserve(1024)
    assert cache.pools is not pools  # grown to 1 GiB
    assert resident() - before < 128 << 20


def test_growing_leaves_free_slots_zero() -> None:
    cache = make_cache(window=3, capacity=8)
    kept, freed = cache.window(), cache.window()
    slot = push(kept, 1.0)
    stale = push(freed, 2.0)
    freed.close()
    cache.reserve(100)
    assert all((pool[slot] == 1.0).all() and not pool[stale].any() for pool in cache.pools)


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
