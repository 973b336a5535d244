"""Publisher and Spectator: a session's frames for any number of onlookers, who see the newest and may miss some.

One message is one part, as conflation drops all but the last part of longer ones. Numbers are little-endian:

    offset  type      what
    0       8 bytes   topic, drawn for each published session
    8       4 bytes   "DSAP"
    12      uint32    version, 1
    16      uint64    tick, as in `Tick.tick`
    24      uint32    height
    28      uint32    width
    32      pixels    uint8[height, width, 3], RGB

An onlooker subscribes to one topic. One that is slow or frozen costs the server one frame of memory: what it does
not fetch in time is replaced by the next.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import zmq

from .link import ClientKeys

MAGIC = b"DSAP"
VERSION = 1
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

    def publish(self, topic: bytes, tick: int, pixels: np.ndarray) -> None:
        """Send `uint8[height, width, 3]` to whoever looks on. Never waits for them."""
        height, width, _ = pixels.shape
        header = _HEADER.pack(topic, MAGIC, VERSION, tick, height, width)
        with self._sending, suppress(zmq.Again):
            if not self._socket.closed:  # a session may end its tick while the server stops
                self._socket.send(header + pixels.tobytes(), zmq.NOBLOCK)

    def close(self) -> None:
        """Idempotent."""
        with self._sending:
            self._socket.close()


@dataclass(frozen=True, eq=False)
class Published:
    """A frame as an onlooker sees it."""

    tick: int
    pixels: np.ndarray
    """`uint8[height, width, 3]`, RGB."""


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

        timeout_ms   None waits for ever. Raises `ValueError` for a message that is something else.
        """
        if not self._socket.poll(timeout_ms):
            return None
        message = self._socket.recv(copy=True)
        if len(message) < _HEADER.size:
            raise ValueError(f"a published frame has {_HEADER.size} bytes or more, got {len(message)}")
        _, magic, version, tick, height, width = _HEADER.unpack_from(message)
        if (magic, version) != (MAGIC, VERSION) or len(message) != _HEADER.size + height * width * 3:
            raise ValueError("not a published frame, or of a version that this runtime does not know")
        pixels = np.frombuffer(message, np.uint8, offset=_HEADER.size).reshape(height, width, 3).copy()
        return Published(tick, pixels)

    def close(self) -> None:
        """Idempotent."""
        self._socket.close()

    def __enter__(self) -> Spectator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _bind(socket: zmq.Socket[bytes], address: str) -> str:
    socket.bind(address)
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)
