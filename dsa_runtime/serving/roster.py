"""Roster: the sessions of a server, and how they are found."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from time import monotonic

from ..spec import WorldSpec
from .host import Hosted


class Roster:
    """By sid, by the key that they were opened or forked with, and those that are on their way out. One thread."""

    def __init__(self) -> None:
        self._by_sid: dict[int, Hosted] = {}
        self._by_key: dict[int, list[Hosted]] = {}
        self._leaving: dict[Hosted, str] = {}
        self._next_lapse = math.inf  # no lease runs out before

    def __iter__(self) -> Iterator[Hosted]:
        """Those that can be found; the roster may change meanwhile."""
        return iter(list(self._by_sid.values()))

    def __len__(self) -> int:
        return len(self._by_sid)

    @property
    def is_empty(self) -> bool:
        """Whether there is none, not even one that is being closed."""
        return not self._by_sid and not self._leaving

    @property
    def worlds(self) -> list[WorldSpec]:
        """Of all sessions, also of those that are being closed."""
        return [hosted.world.spec for hosted in (*self._by_sid.values(), *self._leaving)]

    @property
    def next_lapse(self) -> float:
        """No lease runs out before; on the clock of `time.monotonic`."""
        return self._next_lapse

    def get(self, sid: int) -> Hosted | None:
        """The session of that name."""
        return self._by_sid.get(sid)

    def of_key(self, key: int) -> Sequence[Hosted]:
        """What was opened, or forked, with this key and is still there."""
        return self._by_key.get(key, ())

    def add(self, hosted: Hosted) -> None:
        """A new one."""
        self._by_sid[hosted.sid] = hosted
        self._by_key.setdefault(hosted.key, []).append(hosted)
        self._next_lapse = min(self._next_lapse, hosted.deadline)

    def dismiss(self, hosted: Hosted, reason: str) -> None:
        """From now on it is not found. It is still counted, until it has `left`."""
        del self._by_sid[hosted.sid]
        siblings = self._by_key[hosted.key]
        siblings.remove(hosted)
        if not siblings:
            del self._by_key[hosted.key]
        self._leaving[hosted] = reason

    def is_leaving(self, hosted: Hosted) -> bool:
        """Whether it was dismissed."""
        return hosted in self._leaving

    def left(self, hosted: Hosted) -> str:
        """A dismissed session is closed; returns why it was dismissed."""
        return self._leaving.pop(hosted)

    def lapsed(self) -> list[Hosted]:
        """Those whose leases have run out."""
        now = monotonic()
        if now < self._next_lapse:
            return []
        found = [hosted for hosted in self._by_sid.values() if hosted.has_lapsed]
        # One that runs is not among them, and has a whole lease afterwards.
        self._next_lapse = min(
            (now + hosted.lease_ms / 1000 if hosted.running else hosted.deadline for hosted in self._by_sid.values()),
            default=math.inf,
        )
        return found
