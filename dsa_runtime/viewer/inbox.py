"""Inbox: what a tab's page has asked for, on its way to the tab's thread."""

from __future__ import annotations

from queue import Empty, SimpleQueue

from ..errors import ServingError
from .command import Command, Hold

_MOST = 64


class Inbox:
    """What is held is only ever the newest; commands wait in order. Thread-safe."""

    def __init__(self) -> None:
        self._commands: SimpleQueue[Command | None] = SimpleQueue()
        self.held: Hold | None = None
        """None before the first."""
        self.ended = False

    def put(self, command: Command) -> None:
        """Never waits. Raises `ServingError` where the thread cannot keep up with what is asked."""
        if isinstance(command, Hold):
            self.held = command
            return
        if self._commands.qsize() >= _MOST:
            raise ServingError(f"{type(command).__name__}: {_MOST} commands wait already; ask more slowly")
        self._commands.put(command)

    def tell(self, command: Command) -> None:
        """As `put`, for what the server itself has to say: it is never refused."""
        self._commands.put(command)

    def end(self) -> None:
        """Let the thread end."""
        self.ended = True
        self._commands.put(None)

    def take(self, timeout_s: float | None) -> Command | None:
        """The next command; None if there was none in time (None: no hurry), and at the end."""
        try:
            return self._commands.get(timeout=timeout_s)
        except Empty:
            return None
