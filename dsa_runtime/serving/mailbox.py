"""Mailbox: what other threads hand to a thread that waits in `poll`."""

from __future__ import annotations

import socket
from collections import deque
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """A queue with a file descriptor that is readable while something may be in it."""

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        """To poll for reading."""
        return self._reader.fileno()

    def put(self, item: T) -> None:
        """From any thread, and from a signal handler: never waits. After `close` it does nothing."""
        self._items.append(item)
        self.ring()

    def ring(self) -> None:
        """Wake the reader."""
        with suppress(OSError):  # full: then it wakes anyway; closed: then nobody reads
            self._writer.send(b"\0")

    def take(self) -> list[T]:
        """Everything that is there, without waiting. The reader's thread."""
        with suppress(BlockingIOError):
            while len(self._reader.recv(4096)) == 4096:
                pass
        items = []
        with suppress(IndexError):
            while True:
                items.append(self._items.popleft())
        return items

    def close(self) -> None:
        """Idempotent."""
        self._reader.close()
        self._writer.close()
