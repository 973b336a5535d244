"""Heartbeat: renews the leases of a client's sessions while they are not stepped, as long as the client lives."""

from __future__ import annotations

import threading
from time import monotonic
from weakref import WeakSet

from .berth import Berth
from .channel import Channel
from .fields import optional, uint64
from .link import Link
from .wire import Message, WireError

_PER_LEASE = 4  # so that one or two that are lost do no harm
_IDLE_S = 1.0  # stands for the lease of a session without a place, which may find one at any time


class Heartbeat:
    """A thread, which begins with the first session and sleeps most of the time. It keeps no session alive."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._berths: WeakSet[Berth] = WeakSet()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._unheard: dict[int, int] = {}  # by sid: id of a ping that nothing has come in answer to
        self._ended = False

    def add(self, berth: Berth) -> None:
        """Look after a session."""
        with self._changed:
            self._berths.add(berth)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="dsa-heartbeat", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Idempotent."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        if self._thread not in (None, threading.current_thread()):  # which may be the one that collects garbage
            self._thread.join()

    def _run(self) -> None:
        channel = Channel(self._link, read_late=True)
        try:
            while True:
                with self._changed:
                    places = [berth.place for berth in self._berths if not berth.is_over]
                    leases = [_IDLE_S if place is None else place.lease_s for place in places]
                    pause_s = min(leases, default=None)
                    if not self._ended:  # it may have been said while nobody waited
                        self._changed.wait(None if pause_s is None else pause_s / _PER_LEASE)
                    if self._ended:
                        return
                    berths = list(self._berths)
                self._beat(channel, berths)
                del berths
        finally:
            channel.close()

    def _beat(self, channel: Channel, berths: list[Berth]) -> None:
        by_sid = {}
        for berth in berths:
            place = berth.place
            if place is None:
                continue
            by_sid[place.sid] = berth
            if monotonic() - berth.touched >= place.lease_s / _PER_LEASE:
                # To a server that drains, another id says that its answer has arrived.
                id = self._unheard.setdefault(place.sid, channel.next_id())
                channel.post(Message("ping", id, {"epoch": place.epoch, "sid": place.sid}))
        self._unheard = {sid: id for sid, id in self._unheard.items() if sid in by_sid}
        try:
            for message in channel.hear():  # in answer to earlier ones
                self._unheard = {sid: id for sid, id in self._unheard.items() if id != message.id}
                sid = optional(uint64, message.fields, "sid")
                if sid in by_sid:
                    by_sid[sid].hand_over(message)
        except WireError:
            pass  # whoever that is; the sessions find out by themselves
