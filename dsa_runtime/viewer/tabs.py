"""Tabs: one session's place for each tab of a browser, kept for a while after the tab has gone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ..errors import BusyError
from .command import Away, Here
from .inbox import Inbox
from .loop import Beating, Loop
from .outbox import Outbox

_JOIN_S = 10.0

Make = Callable[[Inbox, Outbox], Beating]
Hang = Callable[[], None]


@dataclass(eq=False)
class Tab:
    """What a tab plays, whether or not it is connected just now."""

    inbox: Inbox
    out: Outbox
    loop: Loop
    hang_up: Hang | None = None
    """Ends its connection, if it has one."""
    left_s: float = field(default=0.0)
    """When it lost that, by the clock of `Tabs`."""


class Tabs:
    """On the server's I/O thread. Close them."""

    def __init__(self, make: Make, most: int, keep_s: float, clock_s: Callable[[], float] = time.monotonic) -> None:
        """make     what a tab drives; called on the tab's thread
        most     tabs at a time
        keep_s   after so long without its page a tab is closed
        """
        self._make, self._most, self._keep_s, self._clock_s = make, most, keep_s, clock_s
        self._tabs: dict[str, Tab] = {}
        self._closing: list[Loop] = []

    def __len__(self) -> int:
        return len(self._tabs)

    def attach(self, name: str, ring: Callable[[], None], hang_up: Hang) -> Tab:
        """The tab of that name, which a page has connected to: the one it was before, or a new one.

        ring      called on any thread when its outbox has something
        hang_up   called when another connection takes the tab over

        Raises `BusyError` if as many tabs as are allowed are connected.
        """
        tab = self._tabs.get(name)
        if tab is not None and tab.loop.is_over:  # it could not be opened; perhaps it can now
            if tab.hang_up is not None:
                tab.hang_up()
            self._close(name)
            tab = None
        if tab is None:
            tab = self._open(name)
        if tab.hang_up is not None:
            tab.hang_up()
        tab.hang_up = hang_up
        tab.out.attach(ring)
        tab.inbox.tell(Here())
        return tab

    def detach(self, tab: Tab, hang_up: Hang) -> None:
        """Its page is gone. Nothing, if another one has taken the tab over."""
        if tab.hang_up is hang_up:
            tab.hang_up, tab.left_s = None, self._clock_s()
            tab.out.attach(None)
            tab.inbox.tell(Away())

    def look_around(self) -> None:
        """Close tabs that have been gone for long."""
        now_s = self._clock_s()
        for name, tab in list(self._tabs.items()):
            if tab.hang_up is None and now_s - tab.left_s >= self._keep_s:
                self._close(name)

    def end(self) -> None:
        """Let the threads end. Idempotent."""
        for tab in self._tabs.values():
            tab.loop.end()

    def join(self) -> None:
        """After `end`: wait until the sessions are closed."""
        for loop in [*self._closing, *(tab.loop for tab in self._tabs.values())]:
            loop.join(_JOIN_S)

    def _open(self, name: str) -> Tab:
        gone = [name for name, tab in self._tabs.items() if tab.hang_up is None]
        if len(self._tabs) >= self._most:
            if not gone:
                raise BusyError(f"{self._most} tabs play already, and no more are allowed; close one of them")
            self._close(min(gone, key=lambda name: self._tabs[name].left_s))
        inbox, out = Inbox(), Outbox()
        tab = self._tabs[name] = Tab(inbox, out, Loop(lambda: self._make(inbox, out), inbox, out))
        tab.loop.start()
        return tab

    def _close(self, name: str) -> None:
        loop = self._tabs.pop(name).loop
        loop.end()
        self._closing = [*(other for other in self._closing if not other.is_over), loop]
