"""Bell: wakes a thread that waits in `poll`."""

from __future__ import annotations

import socket
from contextlib import suppress


class Bell:
    """A file descriptor that is readable from when it was rung until it is cleared."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        """To poll for reading."""
        return self._reader.fileno()

    def ring(self) -> None:
        """From any thread, and from a signal handler: never waits. After `close` it does nothing."""
        with suppress(OSError):  # full: then it wakes anyway; closed: then nobody waits
            self._writer.send(b"\0")

    def clear(self) -> None:
        """The waiting thread's, before it looks why it was woken."""
        with suppress(BlockingIOError):
            while len(self._reader.recv(4096)) == 4096:
                pass

    def close(self) -> None:
        """Idempotent."""
        self._reader.close()
        self._writer.close()
