"""Watcher: what a tab does that looks on at a running `dsa serve`: its published sessions, and its counts.

Published frames carry a tick and a picture (`serving/PROTOCOL.md`, Spectators). What was decided for each is known to
the session's client alone, so the page shows the server's counts instead.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatchmethod
from typing import Any

import numpy as np
import zmq

from ..errors import ServerError, ServingError
from ..serving.client import Connection
from ..serving.link import ClientKeys
from .command import Away, Command, Here, Watch
from .outbox import Outbox
from .packing import pack_pictures

_HEADER = struct.Struct("<8s4sIQII")
_PERIOD_MS = 20.0
_COUNT_S = 1.0
_FORGET_S = 10.0
_MOST_SESSIONS = 256
_COUNTS = ("sessions", "ticks", "late", "repeated", "skipped", "refused", "load", "uptime_ms")


@dataclass
class _Published:
    """A session that was seen, and its newest frame."""

    tick: int
    pixels: np.ndarray
    frames: int = 0
    """Since the last count."""
    rate: float = 0.0
    """Frames a second at the last count."""
    heard_s: float = 0.0


class Watcher:
    """Drives nothing: sees what is published at the moment. One thread at a time; close it."""

    def __init__(
        self,
        connect: Callable[[], Connection],
        keys: ClientKeys | None,
        out: Outbox,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """connect   to the server
        keys      the same as `connect` uses, for the published frames

        Raises `ServerError` and `ServingError`.
        """
        self._out, self._clock_s = out, clock_s
        self._connection = connect()
        try:
            self._socket = _subscribe(self._connection, keys)
        except BaseException:
            self._connection.close()
            raise
        self._seen = False
        self._sessions: dict[bytes, _Published] = {}
        self._topic: bytes | None = None
        self._counted_s = clock_s()
        self._counts: dict[str, Any] = {}

    @property
    def runs(self) -> bool:
        return self._seen

    @property
    def period_ms(self) -> float:
        return _PERIOD_MS

    def beat(self) -> None:
        """Show what has come, and count once in a while."""
        now_s = self._clock_s()
        for topic in self._receive(now_s):
            if self._topic is None:
                self._topic = topic
            if topic == self._topic:
                self._show()
        if now_s - self._counted_s >= _COUNT_S:
            self._count(now_s)

    @singledispatchmethod
    def perform(self, command: Command) -> None:
        """Do what is asked for. Raises `ServingError` for what cannot be done to other people's sessions."""
        raise ServingError(f"{type(command).__name__}: this page only looks on")

    @perform.register
    def _(self, command: Watch) -> None:
        known = {topic.hex(): topic for topic in self._sessions}
        if command.topic not in known:
            raise ServingError("topic: no such session is published any more")
        self._topic = known[command.topic]
        self._show()
        self._say()

    @perform.register
    def _(self, command: Here) -> None:
        self._seen = True
        self._say()

    @perform.register
    def _(self, command: Away) -> None:
        self._seen = False

    def close(self) -> None:
        """Idempotent."""
        self._socket.close()
        self._connection.close()

    def _receive(self, now_s: float) -> set[bytes]:
        """Take in all that has come; the topics of which there is something new."""
        news = set()
        while self._socket.poll(0):
            message = self._socket.recv()
            frame = read_published(message)
            if frame is None:
                continue
            topic, tick, pixels = frame
            known = self._sessions.get(topic)
            if known is None:
                if len(self._sessions) >= _MOST_SESSIONS:
                    continue
                known = self._sessions[topic] = _Published(tick, pixels)
            known.tick, known.pixels, known.heard_s = tick, pixels, now_s
            known.frames += 1
            news.add(topic)
        return news

    def _count(self, now_s: float) -> None:
        passed_s, self._counted_s = now_s - self._counted_s, now_s
        for topic, session in list(self._sessions.items()):
            session.rate, session.frames = session.frames / passed_s, 0
            if now_s - session.heard_s > _FORGET_S:
                del self._sessions[topic]
        if self._topic not in self._sessions:
            self._topic = next(iter(self._sessions), None)
            if self._topic is not None:
                self._show()
        try:
            stats = self._connection.stats()
            self._counts = {name: stats[name] for name in _COUNTS if name in stats}
        except ServerError as error:
            self._counts = {"gone": str(error)}
        self._say()

    def _show(self) -> None:
        assert self._topic is not None
        session = self._sessions[self._topic]
        self._out.show(pack_pictures([session.pixels], {"tick": session.tick}))

    def _say(self) -> None:
        sessions = [
            {"topic": topic.hex(), "tick": session.tick, "rate": round(session.rate, 1)}
            for topic, session in sorted(self._sessions.items())
        ]
        shown = None if self._topic is None else self._topic.hex()
        self._out.say("watch", {"sessions": sessions, "topic": shown, "server": self._counts})


def read_published(message: bytes) -> tuple[bytes, int, np.ndarray] | None:
    """Topic, tick and `uint8[height, width, 3]` of a published frame; None for what is none."""
    if len(message) < _HEADER.size:
        return None
    topic, magic, version, tick, height, width = _HEADER.unpack_from(message)
    if (magic, version) != (b"DSAP", 1) or not height * width or len(message) != _HEADER.size + height * width * 3:
        return None
    return topic, tick, np.frombuffer(message, np.uint8, offset=_HEADER.size).reshape(height, width, 3)


def _subscribe(connection: Connection, keys: ClientKeys | None) -> zmq.Socket[bytes]:
    """To everything that is published. Raises `ServingError`."""
    address = connection.publish_address
    if address is None:
        raise ServingError("the server does not publish frames; start it with --publish ADDRESS")
    watching: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
    watching.setsockopt(zmq.LINGER, 0)
    watching.setsockopt(zmq.SUBSCRIBE, b"")
    if keys is not None:
        keys.put_on(watching)
    watching.connect(address)
    return watching
