"""FrameCache: keys and values of finished frames in a pool of slots that all sessions of a world share.

A slot holds one frame and is written once; from then on it is read-only and counted by reference. A session
holds no keys and values, only a `Window`: the slots it looks back at. Sharing a past (`Window.fork`) copies W
integers, and because a commit always writes to a fresh slot, two windows that share slots never see each
other's later frames.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from .spec import CacheSpec

_SESSIONS_AT_FIRST = 8


class FrameCache:
    """The pool. Thread-safe.

    Slots are reserved when a window is made, `window + 1` for each (a commit fills a fresh slot while the old
    window is still referenced), and only `reserve` may enlarge the pools. So `allocate`, which runs in every
    tick, never does.
    """

    def __init__(self, spec: CacheSpec, capacity: int | None = None) -> None:
        self.spec = spec
        self.pools: tuple[np.ndarray, ...] = ()
        """Keys and values of layer 0, keys and values of layer 1, ...: each `float32[capacity, tokens, heads,
        head_dim]`. Growing replaces the whole tuple, so one comparison by identity tells whether it has
        changed."""
        self._changed = threading.Condition()
        self._writers = 0
        self._growing = False
        self._reserved = 0
        self._references: list[int] = []
        self._free: list[int] = []
        self._abandoned: deque[_Holding] = deque()
        with self._changed:
            self._grow(capacity or _SESSIONS_AT_FIRST * (spec.window + 1))

    @property
    def capacity(self) -> int:
        """Slots in the pools."""
        return len(self._references)

    @property
    def used(self) -> int:
        """Slots that some window refers to, or that are being written."""
        with self._changed:
            self._collect()
            return self.capacity - len(self._free)

    @property
    def slot_bytes(self) -> int:
        """Memory of one slot over all layers, keys and values."""
        return 2 * self.spec.layers * int(np.prod(self.spec.slot_shape)) * np.dtype(np.float32).itemsize

    def window(self) -> Window:
        """An empty window with its reservation. May enlarge the pools, so never call it inside a tick."""
        self.reserve(self.spec.window + 1)
        return Window(self)

    def reserve(self, slots: int) -> None:
        """Promise that `slots` more can be allocated. Enlarges the pools if they are too small."""
        with self._changed:
            while self._growing:
                self._changed.wait()
            self._collect()
            self._reserved += slots
            if self._reserved > self.capacity:
                try:
                    self._grow(max(self._reserved, 2 * self.capacity))
                except MemoryError:
                    self._reserved -= slots
                    raise

    def unreserve(self, slots: int) -> None:
        """Give back a promise."""
        with self._changed:
            self._reserved -= slots

    def allocate(self) -> int:
        """A fresh slot with one reference, within what was reserved. Its contents are stale until written."""
        with self._changed:
            if not self._free:
                self._collect()
            slot = self._free.pop()
            self._references[slot] = 1
            return slot

    def retain(self, slots: tuple[int, ...]) -> None:
        """Add one reference to each of `slots`."""
        with self._changed:
            for slot in slots:
                self._references[slot] += 1

    def release(self, slots: tuple[int, ...]) -> None:
        """Drop one reference of each of `slots`; a slot without references is free."""
        with self._changed:
            self._release(slots)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the pools in place while a slot is written. Readers need not: replaced pools stay intact."""
        with self._changed:
            while self._growing:
                self._changed.wait()
            self._writers += 1
        try:
            yield
        finally:
            with self._changed:
                self._writers -= 1
                self._changed.notify_all()

    def _grow(self, capacity: int) -> None:
        """Replace the pools by larger ones, with the lock held. Whoever still reads the old ones may."""
        self._growing = True
        try:
            while self._writers:
                self._changed.wait()
            old = self.capacity
            # Zeroed memory is mapped lazily, so slots cost memory only once they are written. Zeros also keep
            # empty slots finite: graphs that mask rather than skip multiply them by zero.
            shape = (capacity, *self.spec.slot_shape)
            pools = [np.zeros(shape, np.float32) for _ in range(2 * self.spec.layers)]
            for pool, before in zip(pools, self.pools, strict=False):  # at first there is nothing to copy
                pool[:old] = before
            self.pools = tuple(pools)
            self._references += [0] * (capacity - old)
            self._free += range(capacity - 1, old - 1, -1)
        finally:
            self._growing = False
            self._changed.notify_all()

    def _release(self, slots: tuple[int, ...]) -> None:
        for slot in slots:
            self._references[slot] -= 1
            if not self._references[slot]:
                self._free.append(slot)

    def _collect(self) -> None:
        while self._abandoned:
            holding = self._abandoned.popleft()
            self._release(holding.slots)
            self._reserved -= holding.reserved


class _Holding:
    """What a window holds. Apart from the window so that a finaliser can reach it when the window is gone."""

    __slots__ = ("reserved", "slots")

    def __init__(self, reserved: int) -> None:
        self.slots: tuple[int, ...] = ()
        self.reserved = reserved


class Window:
    """The frames one session looks back at, oldest first. Not locked: one session, one thread at a time."""

    def __init__(self, cache: FrameCache) -> None:
        """For `FrameCache.window` and `fork`, which make the reservation."""
        self.cache = cache
        self._holding = _Holding(cache.spec.window + 1)
        # A finaliser may run inside any allocation, also while this thread holds the cache's lock. So it only
        # queues what it found, which is atomic, and the next caller with the lock cleans up.
        self._finaliser = weakref.finalize(self, cache._abandoned.append, self._holding)
        self._finaliser.atexit = False

    @property
    def slots(self) -> tuple[int, ...]:
        """Slots oldest first, at most `spec.window`."""
        return self._holding.slots

    def push(self, slot: int) -> None:
        """Make `slot` (allocated and written) the newest frame; a full window drops its oldest past the sink.

        The window takes over the reference that `allocate` gave.
        """
        spec, slots = self.cache.spec, self._holding.slots
        dropped: tuple[int, ...] = ()
        if len(slots) == spec.window:
            dropped = slots[spec.sink : spec.sink + 1]
            slots = slots[: spec.sink] + slots[spec.sink + 1 :]
        self._holding.slots = (*slots, slot)
        if dropped:
            self.cache.release(dropped)

    def write_table(self, slot_table: np.ndarray, slot_age: np.ndarray) -> None:
        """Fill one row of the graphs' inputs, both `int32[window]`: slots oldest first, then -1 for empty.

        An age counts places in the window, so a frame of the sink stops ageing when it reaches the window's
        end and the ages never leave the range the world was trained on. Empty places have age 1.
        """
        slots = self._holding.slots
        filled = len(slots)
        slot_table[filled:] = -1
        slot_age[filled:] = 1
        if filled:
            slot_table[:filled] = slots
            slot_age[:filled] = np.arange(filled, 0, -1)

    def fork(self) -> Window:
        """A second window on the same frames. Copies no keys and values."""
        twin = self.cache.window()
        self.cache.retain(self.slots)
        twin._holding.slots = self.slots
        return twin

    def close(self) -> None:
        """Give back the slots and the reservation. Idempotent."""
        if self._finaliser.detach():
            self.cache.release(self.slots)
            self.cache.unreserve(self._holding.reserved)
            self._holding.slots = ()
