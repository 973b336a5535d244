"""Loop: a tab's thread, which beats at the world's rate and does in between what the page asks for."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from ..errors import DsaError
from ..pacer import Pacer
from .command import Command
from .inbox import Inbox
from .outbox import Outbox


class Beating(Protocol):
    """What a loop drives: a `Player`, or a `Watcher`."""

    @property
    def runs(self) -> bool:
        """Whether `beat` is to be called."""

    @property
    def period_ms(self) -> float:
        """Between two beats."""

    def beat(self) -> None:
        """Go on by one."""

    def perform(self, command: Command) -> None:
        """Do what is asked for."""

    def close(self) -> None:
        """Give everything back."""


class Loop:
    """Opens what it drives, drives it until `end`, and closes it: all on one thread."""

    def __init__(
        self, make: Callable[[], Beating], inbox: Inbox, out: Outbox, clock_ns: Callable[[], int] = time.perf_counter_ns
    ) -> None:
        """clock_ns   monotonic; the beats follow it, and `inbox.take` does the waiting"""
        self._make, self._inbox, self._out, self._clock_ns = make, inbox, out, clock_ns
        self._thread = threading.Thread(target=self.run, name="dsa-tab", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether the thread has ended."""
        return self._thread.ident is not None and not self._thread.is_alive()

    def end(self) -> None:
        """Idempotent; does not wait."""
        self._inbox.end()

    def join(self, timeout_s: float) -> None:
        """Wait until everything is given back."""
        self._thread.join(timeout_s)

    def run(self) -> None:
        """What the thread does."""
        try:
            driven = self._make()
        except Exception as error:
            self._complain(error)
            return
        try:
            self._drive(driven)
        finally:
            driven.close()

    def _drive(self, driven: Beating) -> None:
        def attend(seconds: float | None) -> bool:
            command = self._inbox.take(seconds)
            if command is not None:
                self._try(lambda: driven.perform(command))
            return command is not None

        while not self._inbox.ended:
            # After each pause the beat starts anew, at once.
            pacer = Pacer(driven.period_ms, clock_ns=self._clock_ns, sleep=attend)
            while driven.runs and not self._inbox.ended:
                pacer.wait()
                while attend(0):  # where every beat is late, there is no waiting
                    pass
                if driven.runs:
                    self._try(driven.beat)
            if not self._inbox.ended:
                attend(None)

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:
            self._complain(error)

    def _complain(self, error: Exception) -> None:
        if isinstance(error, DsaError):
            self._out.complain(str(error))
        else:  # a defect; the tab goes on
            logging.getLogger(__name__).exception("a tab of `dsa play`")
            self._out.complain(f"something failed inside: {type(error).__name__}; see the terminal of `dsa play`")
