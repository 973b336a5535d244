"""FrameCache: keys and values of finished frames in a pool of slots that all sessions of a world share.

A slot holds one frame and is written once; from then on it is read-only and counted by reference. A session
holds no keys and values, only a `Window`: the slots it looks back at. Sharing a past (`fork`) copies W
integers, and because a commit always writes to a fresh slot, two windows that share slots never see each
other's later frames.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from .device import CPU, Device
from .device_array import Array
from .spec import CacheSpec

# The pools begin large, because growing them takes milliseconds and interrupts every session of the world, while
# a slot that was never written costs address space only (see `_grow`). So the first size is an amount of address
# space: room for this many sessions, if that is not more than so many bytes, and for a few in any case.
_FIRST_SESSIONS = 256
_FIRST_BYTES = 1 << 30
_LEAST_SESSIONS = 8


class FrameCache:
    """The pool. Thread-safe.

    Slots are reserved when a window is made, `window + 1` for each (a commit fills a fresh slot while the old
    window is still referenced), and only a reservation may enlarge the pools. So `allocate`, which runs in
    every tick, never does.
    """

    def __init__(
        self,
        spec: CacheSpec,
        capacity: int | None = None,
        source_shapes: Sequence[tuple[int, ...]] = (),
        device: Device = CPU,
        dtype: type[np.floating[Any]] = np.float32,
    ) -> None:
        """Pools of `capacity` slots; None for as many as the address space gives away cheaply.

        source_shapes   of what a slot keeps besides, on the host: that which its keys and values were made of
        device, dtype   of the pools
        """
        self.spec = spec
        self._device, self._dtype = device, np.dtype(dtype)
        self._source_shapes = tuple(source_shapes)
        self.sources: tuple[np.ndarray, ...] = ()
        """One `float32[capacity, *shape]` for each of the source shapes. Replaced together with `pools`."""
        self.pools: tuple[Array, ...] = ()
        """Keys and values of layer 0, keys and values of layer 1, ...: each `dtype[capacity, tokens, heads,
        head_dim]`. Growing replaces the whole tuple, so one comparison by identity tells whether it has
        changed."""
        self._changed = threading.Condition()
        self._writers = 0
        self._closed = False  # to writers, by whoever replaces or writes the pools as a whole
        self._reserved = 0
        self._references: list[int] = []
        self._free: list[int] = []
        self._abandoned: deque[tuple[tuple[int, ...], int]] = deque()
        with self._changed:
            try:
                self._grow(capacity or self._sessions_slots(_FIRST_SESSIONS))
            except MemoryError:  # address space may be limited (ulimit -v) or counted (no overcommit)
                if capacity is not None:
                    raise
                self._grow(self._sessions_slots(_LEAST_SESSIONS))

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
        return 2 * self.spec.layers * int(np.prod(self.spec.slot_shape)) * self._dtype.itemsize

    def window(self, history: int = 0) -> Window:
        """An empty window with its reservation, which keeps `history` frames past its end for `rewind`.

        May enlarge the pools, so never call it inside a tick.
        """
        self.reserve(self.spec.window + 1 + history)
        return Window(self, (), history)

    def fork(self, window: Window, n: int, history: int = 0) -> list[Window]:
        """`n` more windows on the frames of `window`, each with an empty `history`.

        Copies no keys and values. May enlarge the pools, so never call it inside a tick.
        """
        reserved = self.spec.window + 1 + history
        with self._changed:
            self._reserve(n * reserved)
            slots = window.slots
            for slot in slots:
                self._references[slot] += n
        return [Window(self, slots, history) for _ in range(n)]

    def reserve(self, slots: int) -> None:
        """Promise that `slots` more can be allocated. Enlarges the pools if they are too small."""
        with self._changed:
            self._reserve(slots)

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

    def abandon(self, slots: tuple[int, ...], reserved: int = 0) -> None:
        """`release` and `unreserve`, put off until someone next needs room: for `__del__`.

        That may run inside any allocation, also while this thread holds the cache's lock, so it only queues
        what it held, which is atomic.
        """
        self._abandoned.append((slots, reserved))

    def read(self, slots: Sequence[int]) -> list[np.ndarray]:
        """Copies of these slots, `dtype[len(slots), tokens, heads, head_dim]` per pool.

        The caller holds a reference on each, so nobody writes to them meanwhile.
        """
        index = np.asarray(slots, np.intp)
        return [pool[index] for pool in self.pools]

    def read_sources(self, slots: Sequence[int]) -> list[np.ndarray]:
        """As `read`, of `sources`."""
        index = np.asarray(slots, np.intp)
        return [source[index] for source in self.sources]

    def write_sources(self, slots: Sequence[int], sources: Sequence[np.ndarray]) -> None:
        """As `write`, of `sources`; by whoever writes the keys and values."""
        index = np.asarray(slots, np.intp)
        with self.writing():
            for pool, source in zip(self.sources, sources, strict=True):
                pool[index] = source

    def write(self, slots: Sequence[int], frames: Sequence[np.ndarray]) -> None:
        """The reverse: fill slots that were just allocated."""
        index = np.asarray(slots, np.intp)
        # A pool that is not the host's is written as a whole, so nobody may write to another slot of it meanwhile.
        with self.writing() if isinstance(self.pools[0], np.ndarray) else self._writing_alone():
            for pool, frame in zip(self.pools, frames, strict=True):
                pool[index] = frame

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the pools in place while a slot is written. Readers need not: replaced pools stay intact."""
        with self._changed:
            while self._closed:
                self._changed.wait()
            self._writers += 1
        try:
            yield
        finally:
            with self._changed:
                self._writers -= 1
                self._changed.notify_all()

    @contextmanager
    def _writing_alone(self) -> Iterator[None]:
        """As `writing`, while nobody else does."""
        with self._changed:
            while self._closed:
                self._changed.wait()
            self._closed = True
        try:
            with self._changed:
                while self._writers:
                    self._changed.wait()
            yield
        finally:
            with self._changed:
                self._closed = False
                self._changed.notify_all()

    def _sessions_slots(self, sessions: int) -> int:
        """Slots for so many sessions, or for as many as `_FIRST_BYTES` affords, but never for too few."""
        per_session = self.spec.window + 1
        affordable = _FIRST_BYTES // (self.slot_bytes * per_session)
        least = _LEAST_SESSIONS if self._device.kind == "cpu" else 1  # a GPU gives no address space away
        return per_session * max(least, min(affordable, sessions))

    def _reserve(self, slots: int) -> None:
        while self._closed:
            self._changed.wait()
        self._collect()
        self._reserved += slots
        if self._reserved > self.capacity:
            try:
                self._grow(max(self._reserved, 2 * self.capacity))
            except MemoryError:
                self._reserved -= slots
                raise

    def _grow(self, capacity: int) -> None:
        """Replace the pools by larger ones, with the lock held. Whoever still reads the old ones may."""
        with self._writing_alone():
            old = self.capacity
            # Zeroed memory is mapped lazily: slots cost memory once they are written (on Linux in pieces of up to
            # 2 MB), and neither binding the pools to a graph nor attending to other slots writes to them. Only slots
            # in use are copied, or all would be written now. Free ones are taken from the low end, so that what
            # is in use lies together. Zeros also keep empty slots finite: graphs that mask rather than skip
            # multiply them by zero.
            in_use, shape = np.flatnonzero(self._references), (capacity, *self.spec.slot_shape)
            sources = [np.zeros((capacity, *kept), np.float32) for kept in self._source_shapes]
            pools = [self._device.zeros(shape, self._dtype) for _ in range(2 * self.spec.layers)]
            for grown, before in ((pools, self.pools), (sources, self.sources)):  # at first there is nothing to copy
                for array, old_array in zip(grown, before, strict=False):
                    array[in_use] = old_array[in_use]
            self.sources, self.pools = tuple(sources), tuple(pools)
            self._references += [0] * (capacity - old)
            self._free[:0] = range(capacity - 1, old - 1, -1)

    def _release(self, slots: tuple[int, ...]) -> None:
        for slot in slots:
            self._references[slot] -= 1
            if not self._references[slot]:
                self._free.append(slot)

    def _collect(self) -> None:
        while self._abandoned:
            slots, reserved = self._abandoned.popleft()
            self._release(slots)
            self._reserved -= reserved


class Window:
    """The frames one session looks back at, oldest first. Not locked: one session, one thread at a time."""

    # Forking a session makes them by the dozen, so they are small, and a window that is dropped without
    # `close` is noticed by `__del__`: a sixth of the cost of `weakref.finalize`.
    __slots__ = ("__weakref__", "_history", "_past", "_reserved", "_slots", "cache")

    def __init__(self, cache: FrameCache, slots: tuple[int, ...], history: int) -> None:
        """For `FrameCache`, which has made the reservation and counted the references."""
        self.cache = cache
        self._slots = slots
        self._past: tuple[int, ...] = ()
        self._history = history
        self._reserved = cache.spec.window + 1 + history

    def __del__(self) -> None:
        if self._reserved:
            self.cache.abandon(self._past + self._slots, self._reserved)

    @property
    def slots(self) -> tuple[int, ...]:
        """Slots oldest first, at most `spec.window`."""
        return self._slots

    def push(self, slot: int) -> None:
        """Make `slot` (allocated and written) the newest frame; a full window drops its oldest past the sink.

        The window takes over the reference that `allocate` gave.
        """
        spec, slots = self.cache.spec, self._slots
        dropped: tuple[int, ...] = ()
        if len(slots) == spec.window:
            past = self._past + slots[spec.sink : spec.sink + 1]
            surplus = len(past) - self._history
            dropped, self._past = (past[:1], past[1:]) if surplus > 0 else ((), past)
            slots = slots[: spec.sink] + slots[spec.sink + 1 :]
        self._slots = (*slots, slot)
        if dropped:
            self.cache.release(dropped)

    def rewind(self, frames: int) -> None:
        """Drop the newest `frames` and show again those they had pushed out: undoes as many `push`es.

        `frames` is at most the history, and at most the number of pushes.
        """
        sink = self.cache.spec.sink
        made = self._slots[:sink] + self._past + self._slots[sink:]
        kept, dropped = made[: len(made) - frames], made[len(made) - frames :]
        shown = self.cache.spec.window - sink
        self._past, self._slots = kept[sink:][:-shown], kept[:sink] + kept[sink:][-shown:]
        self.cache.release(dropped)

    def write_table(self, slot_table: np.ndarray, slot_age: np.ndarray) -> None:
        """Fill one row of the graphs' inputs, both `int32[window]`: slots oldest first, then -1 for empty.

        An age counts places in the window, so a frame of the sink stops ageing when it reaches the window's
        end and the ages never leave the range the world was trained on. Empty places have age 1.
        """
        slots = self._slots
        filled = len(slots)
        slot_table[filled:] = -1
        slot_age[filled:] = 1
        if filled:
            slot_table[:filled] = slots
            slot_age[:filled] = np.arange(filled, 0, -1)

    def fork(self) -> Window:
        """A second window on the same frames. Copies no keys and values."""
        return self.cache.fork(self, 1)[0]

    def close(self) -> None:
        """Give back the slots and the reservation. Idempotent."""
        reserved, self._reserved = self._reserved, 0
        if reserved:
            self.cache.release(self._past + self._slots)
            self.cache.unreserve(reserved)
            self._past = self._slots = ()
