"""SlowWire: a TCP connection to a server on which its messages take their time."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_AT_ONCE = 64  # bytes: fewer than any message has, so that all of them trickle


class SlowWire:
    """Takes connections to `address` and makes each one to the server."""

    def __init__(self, server: str) -> None:
        self.bytes_per_s = math.inf
        """From the server to its clients. The other way is fast."""
        self._server = int(server.rsplit(":", 1)[1])
        self.front = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self.front.getsockname()[1]}"

    def run(self) -> None:
        with suppress(OSError):  # the front was closed
            while True:
                near, _ = self.front.accept()
                far = socket.create_connection(("127.0.0.1", self._server))
                for source, sink, is_slow in ((near, far, False), (far, near, True)):
                    threading.Thread(target=self._carry, args=(source, sink, is_slow), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, is_slow: bool) -> None:
        with suppress(OSError):
            while data := source.recv(_AT_ONCE):
                sink.sendall(data)
                if is_slow:
                    time.sleep(len(data) / self.bytes_per_s)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def slow_wire(server: str) -> Iterator[SlowWire]:
    """A wire to the server at that TCP address on this machine."""
    wire = SlowWire(server)
    threading.Thread(target=wire.run, name="test-slow-wire", daemon=True).start()
    try:
        yield wire
    finally:
        wire.front.shutdown(socket.SHUT_RDWR)
        wire.front.close()
