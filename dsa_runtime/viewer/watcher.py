"""Watcher: what a tab does that looks on at a running `dsa serve`: its published sessions, with what was decided in
their ticks (`serving/PROTOCOL.md`, Spectators), and its counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatchmethod
from typing import Any

import zmq

from ..errors import ServerError, ServingError
from ..serving.client import Connection
from ..serving.link import ClientKeys
from ..serving.spectator import Published, read_published
from .command import Away, Command, Here, Watch
from .outbox import Outbox
from .packing import pack_pictures, pack_ticks

_PERIOD_MS = 20.0
_COUNT_S = 1.0
_FORGET_S = 10.0
_MOST_SESSIONS = 256
_COUNTS = ("sessions", "ticks", "late", "repeated", "skipped", "refused", "load", "uptime_ms")


@dataclass
class _Seen:
    """A session that was seen, and its newest frame."""

    frame: Published
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
            self._socket = _reach(self._connection, keys)
        except BaseException:
            self._connection.close()
            raise
        self._seen = False
        self._sessions: dict[bytes, _Seen] = {}
        self._unread = ""
        """Why the newest message that could not be read could not."""
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
        if not self._seen:
            self._seen = True
            self._socket.setsockopt(zmq.SUBSCRIBE, b"")
            self._counted_s = now_s = self._clock_s()
            for session in self._sessions.values():  # nothing could be heard of them
                session.heard_s, session.frames = now_s, 0
        self._say()

    @perform.register
    def _(self, command: Away) -> None:
        if self._seen:  # else what nobody looks at would pile up
            self._seen = False
            self._socket.setsockopt(zmq.UNSUBSCRIBE, b"")

    def close(self) -> None:
        """Idempotent."""
        self._socket.close()
        self._connection.close()

    def _receive(self, now_s: float) -> set[bytes]:
        """Take in all that has come; the topics of which there is something new."""
        news = set()
        while self._socket.poll(0):
            try:
                topic, frame = read_published(self._socket.recv())
            except ValueError as error:  # of another version, say: it is told once, not with every frame
                if str(error) != self._unread:
                    self._unread = str(error)
                    self._out.complain(self._unread)
                continue
            known = self._sessions.get(topic)
            if known is None:
                if len(self._sessions) >= _MOST_SESSIONS:
                    continue
                known = self._sessions[topic] = _Seen(frame)
            known.frame, known.heard_s = frame, now_s
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
        frame = self._sessions[self._topic].frame
        topic = self._topic.hex()
        if frame.decision is None:
            head = {"tick": frame.tick, "topic": topic, "decides": frame.version > 1}
            self._out.show(pack_pictures([frame.pixels], head))
        else:
            steps = frame.schedule_steps
            self._out.show(pack_ticks([frame.decision], steps, None, {"topic": topic, "steps": steps}))

    def _say(self) -> None:
        sessions = [
            {"topic": topic.hex(), "tick": session.frame.tick, "rate": round(session.rate, 1)}
            for topic, session in sorted(self._sessions.items())
        ]
        shown = None if self._topic is None else self._topic.hex()
        self._out.say("watch", {"sessions": sessions, "topic": shown, "server": self._counts})


def _reach(connection: Connection, keys: ClientKeys | None) -> zmq.Socket[bytes]:
    """A socket to subscribe to what is published. Raises `ServingError`."""
    address = connection.publish_address
    if address is None:
        raise ServingError("the server does not publish frames; start it with --publish ADDRESS")
    watching: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
    watching.setsockopt(zmq.LINGER, 0)
    if keys is not None:
        keys.put_on(watching)
    watching.connect(address)
    return watching
