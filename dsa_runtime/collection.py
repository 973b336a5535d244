"""Pause of Python's garbage collector while a tick runs.

A full collection stops every thread for milliseconds, and for hundreds of them in a process with millions of
objects. It is triggered by allocations, so it could start inside any tick. A tick itself makes no garbage that
needs it. Outside ticks the collector belongs to the program, which may do better: `gc.freeze()` after loading.
"""

from __future__ import annotations

import gc
import threading


class CollectionPause:
    """Counts the ticks that run, in all sessions; the first one pauses the collector, the last one resumes it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ticks = 0
        self._resume = False

    def __enter__(self) -> None:
        with self._lock:
            self._ticks += 1
            if self._ticks == 1:
                self._resume = gc.isenabled()
                gc.disable()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._ticks -= 1
            if self._ticks == 0 and self._resume:
                gc.enable()


COLLECTION_PAUSE = CollectionPause()
