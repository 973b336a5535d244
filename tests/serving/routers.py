"""Routers and clients that know nothing of worlds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import zmq

from dsa_runtime.serving.keys import KeyPair

PATIENCE_MS = 10_000  # for what shall happen
LOOPBACK = "tcp://127.0.0.1:*"


class NewRouter:
    """A function that keeps what it makes: a socket that is dropped would be closed."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._context = context
        self._made: list[zmq.Socket[bytes]] = []

    def __call__(self) -> zmq.Socket[bytes]:
        self._made.append(self._context.socket(zmq.ROUTER))
        return self._made[-1]

    def close(self) -> None:
        for socket in self._made:
            socket.close(0)


@contextmanager
def client(address: str, server: bytes | None = None, pair: KeyPair | None = None) -> Iterator[zmq.Socket[bytes]]:
    """A DEALER in a context of its own, with keys if it is given some."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger, socket.ipv6 = 0, True
        if pair is not None and server is not None:
            socket.curve_serverkey, socket.curve_publickey, socket.curve_secretkey = server, pair.public, pair.secret
        socket.connect(address)
        yield socket


def echoes(router: zmq.Socket[bytes], dealer: zmq.Socket[bytes]) -> bool:
    dealer.send(b"hello")
    if not router.poll(PATIENCE_MS):
        return False
    router.send_multipart(router.recv_multipart())
    return bool(dealer.poll(PATIENCE_MS)) and dealer.recv() == b"hello"


def is_refused(router: zmq.Socket[bytes], dealer: zmq.Socket[bytes]) -> bool:
    """The handshake fails, which the server's side reports, and no message comes through."""
    events = (
        zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    )
    with router.get_monitor_socket(events) as monitor:
        dealer.send(b"hello")
        failed = bool(monitor.poll(PATIENCE_MS))
        router.disable_monitor()
    return failed and not router.poll(0)
