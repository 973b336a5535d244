"""Control: what a client asks of a server besides its sessions' requests, and who the server is."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import __version__
from ..errors import ServerError, ServerGoneError, SessionError
from ..spec import WorldSpec
from .answers import code_of, error_of
from .channel import Channel, Restarted
from .fields import array, boolean, integer, mapping, optional, text, texts, uint64
from .link import Link
from .wire import VERSION, Message, WireError

FEATURES = ["shm", "jpeg", "png", "publish"]
_ATTEMPTS = 3
_CANCEL_MS = 1000.0


@dataclass(frozen=True)
class WorldEntry:
    """A world that a server has."""

    name: str
    version: str
    fingerprint: str
    """See `WorldSpec.fingerprint`."""


@dataclass(frozen=True)
class Welcome:
    """Who a server is."""

    epoch: int
    """Another one after each start."""
    server: str
    """Name and version of its program."""
    worlds: tuple[WorldEntry, ...]
    """The first is the default."""
    features: frozenset[str]
    """Of this client's, those that it offers."""
    limits: Mapping[str, Any]
    publish: str | None
    """Address of its spectators' socket."""


class Control:
    """Thread-safe. Close it."""

    def __init__(self, link: Link) -> None:
        """Says hello. Raises `ServerGoneError` if nobody answers."""
        self.link = link
        self._channel = Channel(link)
        self._asking = threading.Lock()
        self._closed = False
        try:
            self.welcome = self._hello(self._channel)
        except BaseException:
            self._channel.close()
            raise

    def greet(self, spec: WorldSpec, channel: Channel) -> int:
        """Says hello again, on another channel, and returns the epoch of a server that has this very world.

        Many sessions may do that at once, each waiting for itself.
        """
        self.welcome = self._hello(channel)
        for world in self.welcome.worlds:
            if world.name == spec.name and world.fingerprint == spec.fingerprint:
                return self.welcome.epoch
        raise ServerGoneError(f"the server now has another {spec.name!r}, or none: this session cannot go on there")

    def ask(self, type: str, fields: Mapping[str, Any]) -> Message:
        """The reply to a request that is about no session. A restart of the server makes no difference to it."""
        for _ in range(_ATTEMPTS):
            with self._asking:
                try:
                    reply = self._ask(type, {"epoch": self.welcome.epoch, **fields})
                except Restarted:
                    self.welcome = self._hello(self._channel)
                    continue
            if code_of(reply) is not None:
                raise error_of(reply)
            return reply
        raise ServerGoneError("the server restarts again and again")

    def cancel(self, epoch: int, sid: int, step: int) -> bool:
        """Stop the step of a session, by its id. False if it does not run, and if that cannot be known."""
        fields = {"epoch": epoch, "sid": sid, "of": step}  # asked again late, it must not stop the next one
        with self._asking:
            try:
                reply = self._ask("cancel", fields, min(_CANCEL_MS, self.link.timeout_ms))
                return reply.type == "cancelled" and boolean(reply.fields, "cancelled")
            except (Restarted, ServerError, SessionError):
                return False

    def close(self) -> None:
        """Idempotent."""
        with self._asking:
            self._closed = True
            self._channel.close()

    def _hello(self, channel: Channel) -> Welcome:
        asked = {"min": VERSION, "max": VERSION, "features": FEATURES, "client": f"dsa-runtime {__version__} Python"}
        reply = self._ask("hello", asked, channel=channel)
        if code_of(reply) is not None:
            raise error_of(reply)
        try:
            return _read_welcome(reply)
        except WireError as error:
            raise ServerError(f"{self.link.address}: its welcome makes no sense: {error}") from None

    def _ask(
        self, type: str, fields: Mapping[str, Any], silence_ms: float | None = None, channel: Channel | None = None
    ) -> Message:
        channel = channel or self._channel
        if self._closed:
            raise SessionError("the connection is closed")
        try:
            return channel.ask(Message(type, channel.next_id(), fields), silence_ms=silence_ms)
        except WireError as error:
            raise ServerError(f"{self.link.address}: sent something that is no reply: {error}") from None


def _read_welcome(reply: Message) -> Welcome:
    fields = reply.fields
    integer(fields, "version", VERSION, VERSION)
    worlds = []
    for number, _ in enumerate(array(fields, "worlds")):
        entry = mapping({"worlds": fields["worlds"][number]}, "worlds")
        worlds.append(WorldEntry(text(entry, "name"), text(entry, "version"), text(entry, "fingerprint")))
    if not worlds:
        raise WireError("malformed", "worlds: expected at least one")
    return Welcome(
        epoch=uint64(fields, "epoch"),
        server=text(fields, "server"),
        worlds=tuple(worlds),
        features=frozenset(texts(fields, "features")),
        limits=mapping(fields, "limits"),
        publish=optional(text, fields, "publish"),
    )
