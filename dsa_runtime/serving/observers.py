"""Observers: several observers as one."""

from __future__ import annotations

from ..tick import Tick
from .observer import Observer


class Observers(Observer):
    """Tells each of them everything, in order."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def greeted(self, client: str) -> None:
        for observer in self._observers:
            observer.greeted(client)

    def opened(self, sid: int, world: str) -> None:
        for observer in self._observers:
            observer.opened(sid, world)

    def closed(self, sid: int, reason: str) -> None:
        for observer in self._observers:
            observer.closed(sid, reason)

    def reaped(self, sid: int) -> None:
        for observer in self._observers:
            observer.reaped(sid)

    def refused(self, code: str, problem: str) -> None:
        for observer in self._observers:
            observer.refused(code, problem)

    def request(self, type: str, code: str, seconds: float) -> None:
        for observer in self._observers:
            observer.request(type, code, seconds)

    def tick(self, tick: Tick) -> None:
        for observer in self._observers:
            observer.tick(tick)

    def failed(self, what: str, incident: int, error: Exception) -> None:
        for observer in self._observers:
            observer.failed(what, incident, error)
