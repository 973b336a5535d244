"""Outbox: what waits for a tab. Of everything that is replaced by something newer, only the newest."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

WINDOW = 3
"""Messages with pictures on their way that the page has not acknowledged. What is more is conflated: a tab that is slow
sees fewer pictures, and never old ones."""
_PROBLEMS = 8


class Outbox:
    """Filled by a tab's thread, emptied by its connection. Thread-safe."""

    def __init__(self, window: int = WINDOW) -> None:
        self._lock = threading.Lock()
        self._window = window
        self._said: dict[str, str] = {}
        self._problems: deque[str] = deque(maxlen=_PROBLEMS)
        self._picture: bytes | None = None
        self._file: bytes | None = None
        self._under_way = 0
        self._ring: Callable[[], None] | None = None

    def attach(self, ring: Callable[[], None] | None) -> None:
        """A new connection: nothing is under way on it. `ring` is called on any thread, when there is something new."""
        with self._lock:
            self._ring, self._under_way = ring, 0

    def show(self, message: bytes) -> None:
        """Pictures, see `packing`. Replaces those that were not sent yet."""
        with self._lock:
            self._picture = message
        self._tell()

    def say(self, name: str, fields: dict[str, Any]) -> None:
        """News that replace older ones of this name."""
        text = _text(name, fields)
        with self._lock:
            self._said[name] = text
        self._tell()

    def complain(self, problem: str) -> None:
        """A line for people."""
        with self._lock:
            self._problems.append(_text("problem", {"text": problem}))
        self._tell()

    def hand_over(self, message: bytes) -> None:
        """A file, see `packing`."""
        with self._lock:
            self._file = message
        self._tell()

    def seen(self) -> None:
        """The page has got a message with pictures."""
        with self._lock:
            self._under_way = max(self._under_way - 1, 0)
        self._tell()

    def take(self) -> list[str | bytes]:
        """What may be sent now, in this order."""
        with self._lock:
            taken: list[str | bytes] = [*self._said.values(), *self._problems]
            self._said.clear()
            self._problems.clear()
            if self._file is not None:
                taken.append(self._file)
                self._file = None
            if self._picture is not None and self._under_way < self._window:
                taken.append(self._picture)
                self._picture = None
                self._under_way += 1
            return taken

    def _tell(self) -> None:
        ring = self._ring
        if ring is not None:
            ring()


def _text(name: str, fields: dict[str, Any]) -> str:
    return json.dumps({"is": name, **fields}, allow_nan=False)
