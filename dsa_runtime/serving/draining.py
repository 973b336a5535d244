"""Draining: how a server that is about to end gives its sessions back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from time import monotonic

from .host import Hosted, Request, Route
from .wire import Message, WireError, error_message

_MOST_WAITING = 8  # requests for one session; of more, the newest are answered


class Draining:
    """Every session writes itself down after what it is at. The snapshot goes to whoever asked last about it, unasked,
    and to whoever asks for anything afterwards; then it is theirs again. One thread."""

    def __init__(
        self, drain_s: float, send: Callable[[Route, Message], None], answer: Callable[[Request, Message], None]
    ) -> None:
        self._drain_s, self._send, self._answer = drain_s, send, answer
        self.until = math.inf
        """When it is over at the latest, on the clock of `time.monotonic`."""

    @property
    def has_begun(self) -> bool:
        """Whether the server drains."""
        return self.until < math.inf

    def begin(self, sessions: Iterable[Hosted]) -> None:
        """Let all sessions write themselves down. Idempotent."""
        if not self.has_begun:
            self.until = monotonic() + self._drain_s
            for hosted in sessions:
                self.add(hosted)

    def add(self, hosted: Hosted) -> None:
        """One more, that has come up since."""
        hosted.post(Request(Message("handover", 0), None))

    def is_over(self, sessions: Iterable[Hosted], growing: bool) -> bool:
        """Whether all of these are with their clients again and no more are to come, or the time has run out."""
        if not self.has_begun:
            return False
        return monotonic() >= self.until or not (growing or any(not hosted.handed_over for hosted in sessions))

    def take(self, hosted: Hosted, reply: Message, *, unasked: bool) -> None:
        """A session has written itself down; it may have been closed meanwhile. Answers those who wait for it.

        unasked   tell whoever asked last about it, too
        """
        if reply.type == "error":  # it was logged; the client goes on from a snapshot of its own
            reply = Message("handover", 0, {"sid": hosted.sid})
        hosted.handover = reply
        if unasked and hosted.route is not None:
            self._send(hosted.route, reply)
        for request in hosted.waiting:
            self._answer(request, self._given_back(hosted, request))
        hosted.waiting = []

    def ask(self, hosted: Hosted, request: Request) -> Message | None:
        """The reply to whatever is asked of a session now; None if it comes later."""
        if hosted.handover is None:
            hosted.waiting = [*hosted.waiting[1 - _MOST_WAITING :], request]
            return None
        told = hosted.told
        # That it was sent says nothing. Who has had it asks something else, or closes the session; a retry says no.
        hosted.handed_over |= told is not None and told.route == request.route and told.id != request.id
        return self._given_back(hosted, request)

    def _given_back(self, hosted: Hosted, request: Request) -> Message:
        assert hosted.handover is not None
        hosted.told = request
        problem = "the server is about to end; go on elsewhere from this snapshot"
        error = error_message(WireError("draining", problem, extra=hosted.handover.fields))
        return dataclasses.replace(error, buffers=hosted.handover.buffers)
