"""Cancels: steps that are to stop, until it is known whether they did."""

from __future__ import annotations

from collections.abc import Callable

from .fields import optional, uint64
from .host import Hosted, Request
from .wire import Message, WireError

_MOST_WAITING = 16  # for one step


class Cancels:
    """A step can be told to stop only once it has begun, and there is no waiting for that at the desk. So it is
    told again and again, until it has heard it or its outcome is there. One thread."""

    def __init__(self, answer: Callable[[Request, Message], None]) -> None:
        self._answer = answer
        self._waiting: dict[Hosted, list[Request]] = {}

    @property
    def are_waiting(self) -> bool:
        """Whether a step has yet to be told: call `again` soon."""
        return bool(self._waiting)

    def ask(self, hosted: Hosted, request: Request) -> None:
        """Stop the step that runs, if it is the one that is meant, and answer whether it did."""
        meant = optional(uint64, request.message.fields, "of")
        running = hosted.running
        if running is None or running.message.type != "step" or meant not in (None, running.message.id):
            self._answer(request, _reply(hosted, False))
            return
        waiting = self._waiting.setdefault(hosted, [])
        if len(waiting) == _MOST_WAITING:
            raise WireError("busy", "the step is being cancelled")
        waiting.append(request)
        self._tell(hosted)

    def stop(self, hosted: Hosted) -> None:
        """The same, where nobody asks."""
        if hosted.running is not None and hosted.running.message.type == "step":
            self._waiting.setdefault(hosted, [])
            self._tell(hosted)

    def again(self) -> None:
        """Tell those that have not heard it."""
        for hosted in list(self._waiting):
            self._tell(hosted)

    def settle(self, hosted: Hosted, cancelled: bool) -> None:
        """The outcome of the step is there, or it has heard."""
        for request in self._waiting.pop(hosted, ()):
            self._answer(request, _reply(hosted, cancelled))

    def _tell(self, hosted: Hosted) -> None:
        if hosted.try_cancel():
            self.settle(hosted, True)


def _reply(hosted: Hosted, cancelled: bool) -> Message:
    return Message("cancelled", 0, {"sid": hosted.sid, "cancelled": cancelled})
