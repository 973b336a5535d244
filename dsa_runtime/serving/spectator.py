"""Publisher and Spectator: a session's frames for any number of onlookers, who see the newest and may miss some.

One message is one part, as conflation drops all but the last part of longer ones. Numbers are little-endian:

    offset  type      what
    0       8 bytes   topic, drawn for each published session
    8       4 bytes   "DSAP"
    12      uint32    version, 2
    16      uint64    tick whose frame this is; of a picture that no tick made, the next tick
    24      uint32    height
    28      uint32    width
    32      pixels    uint8[height, width, 3], RGB
    ...     decision  to the end: the msgpack map of a `frame` reply (PROTOCOL.md) without `sid`, and with
                      `schedule_steps`; nothing where no tick made the picture. Version 1 ended before it

An onlooker subscribes to one topic. One that is slow or frozen costs the server one frame of memory: what it does
not fetch in time is replaced by the next.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import zmq

from ..tick import Tick
from . import wire
from .fields import integer
from .link import ClientKeys
from .wire_tick import tick_of

MAGIC = b"DSAP"
VERSION = 2
_READ = (1, VERSION)
TOPIC_BYTES = 8
_HEADER = struct.Struct("<8s4sIQII")

Bind = Callable[["zmq.Socket[bytes]", str], str]
"""Binds a socket to an address, by whatever rules, and returns the address it has."""


class Publisher:
    """The server's side, for the frames of all published sessions. Thread-safe."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str, bind: Bind | None = None) -> None:
        """Bind to `address`: by `bind`, which is `Guard.bind` on a server. Raises what that raises."""
        self._sending = threading.Lock()
        self._socket = context.socket(zmq.PUB)
        try:
            self._socket.setsockopt(zmq.LINGER, 0)
            # The newest frame for each onlooker. A short queue would keep the oldest, and drop the last one of a burst.
            self._socket.setsockopt(zmq.CONFLATE, 1)
            self.address = (bind or _bind)(self._socket, address)
        except BaseException:
            self._socket.close()
            raise

    def publish(self, topic: bytes, tick: int, pixels: np.ndarray, decision: Mapping[str, Any] | None = None) -> None:
        """Send `uint8[height, width, 3]` to whoever looks on. Never waits for them.

        decision   of the tick that made it: `frame_fields`, and `schedule_steps` of the world. Everybody may see it
        """
        height, width, _ = pixels.shape
        header = _HEADER.pack(topic, MAGIC, VERSION, tick, height, width)
        told = b"" if decision is None else wire.pack(wire.Message("frame", 0, decision))[1]
        message = b"".join([header, pixels.tobytes(), told])
        with self._sending, suppress(zmq.Again):
            if not self._socket.closed:  # a session may end its tick while the server stops
                self._socket.send(message, zmq.NOBLOCK)

    def close(self) -> None:
        """Idempotent."""
        with self._sending:
            self._socket.close()


@dataclass(frozen=True, eq=False)
class Published:
    """A frame as an onlooker sees it."""

    tick: int
    """Whose frame it is. Of a picture that no tick made, as after a reset: the next one."""
    pixels: np.ndarray
    """`uint8[height, width, 3]`, RGB. Of a tick with several pictures it is the newest."""
    decision: Tick | None = None
    """The tick that returned it, as its own client got it, but for the pictures before this one; None for a picture
    that no tick made, and from servers of `version` 1."""
    schedule_steps: int = 0
    """Of its world, where there is a decision."""
    version: int = VERSION
    """Of the message."""


class Spectator:
    """An onlooker of one published session. One thread at a time; close it, or use it in a `with` statement."""

    def __init__(self, address: str, topic: bytes, keys: ClientKeys | None = None) -> None:
        """address   as `Connection.publish_address` says it
        topic     as `RemoteSession.topic` says it
        keys      for a server with CURVE
        """
        if len(topic) != TOPIC_BYTES:
            raise ValueError(f"topic: expected {TOPIC_BYTES} bytes, got {len(topic)}")
        self._topic = topic
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
        try:
            self._socket.setsockopt(zmq.LINGER, 0)
            self._socket.setsockopt(zmq.CONFLATE, 1)  # the newest alone; it would keep one across all topics
            self._socket.setsockopt(zmq.SUBSCRIBE, topic)
            if keys is not None:
                keys.put_on(self._socket)
            self._socket.connect(address)
        except BaseException:
            self._socket.close()
            raise

    def receive(self, timeout_ms: int | None = None) -> Published | None:
        """The newest frame that was not received yet; waits for one. None if there was none in time.

        timeout_ms   None waits for ever. Raises `ValueError` for a message that is something else, or of a version
                     that this runtime does not read.
        """
        if not self._socket.poll(timeout_ms):
            return None
        return read_published(self._socket.recv(copy=True))[1]

    def close(self) -> None:
        """Idempotent."""
        self._socket.close()

    def __enter__(self) -> Spectator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_published(message: bytes) -> tuple[bytes, Published]:
    """Topic and frame of a message. Raises `ValueError`."""
    if len(message) < _HEADER.size:
        raise ValueError(f"a published frame has {_HEADER.size} bytes or more, got {len(message)}")
    topic, magic, version, tick, height, width = _HEADER.unpack_from(message)
    if magic != MAGIC:
        raise ValueError("not a published frame")
    if version not in _READ:
        known = " and ".join(map(str, _READ))
        raise ValueError(f"published frames of version {version}, and this runtime reads {known}: update dsa-runtime")
    size = height * width * 3
    told = message[_HEADER.size + size :]
    if not size or len(message) < _HEADER.size + size or (version == 1 and told):
        raise ValueError(f"not a published frame: {len(message)} bytes do not fit {height} x {width} pixels")
    pixels = np.frombuffer(message, np.uint8, size, _HEADER.size).reshape(height, width, 3).copy()
    if not told:
        return topic, Published(tick, pixels, version=version)
    try:
        fields = wire.unpack([wire.MAGIC, told]).fields
        schedule_steps = integer(fields, "schedule_steps", 1, 2**31 - 1)
        return topic, Published(tick, pixels, tick_of(fields, pixels), schedule_steps, version)
    except wire.WireError as error:
        raise ValueError(f"not a published frame: its decision makes no sense: {error}") from None


def _bind(socket: zmq.Socket[bytes], address: str) -> str:
    socket.bind(address)
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)
