"""Relay: stands between clients and a server, and loses, changes or holds back what a test says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import zmq

from dsa_runtime.serving.wire import Message, unpack
from tests.serving.peer import WAIT_MS

Pass = Callable[[Message], bool]


def everything(_: Message) -> bool:
    return True


class Relay:
    """`requests` and `replies` decide, on the relay's thread, whether a message passes; `change` makes another of a
    reply's parts."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.requests: Pass = everything
        self.replies: Pass = everything
        self.change: Callable[[list[bytes]], list[bytes]] = lambda parts: parts
        self.ended = threading.Event()

    def run(self, front: zmq.Socket[bytes], context: zmq.Context[zmq.Socket[bytes]], server: str) -> None:
        backs: dict[bytes, zmq.Socket[bytes]] = {}
        poller = zmq.Poller()
        poller.register(front, zmq.POLLIN)
        while not self.ended.is_set():
            ready = dict(poller.poll(10))
            if front in ready:
                peer, *parts = front.recv_multipart()
                if peer not in backs:
                    backs[peer] = back = context.socket(zmq.DEALER)
                    back.connect(server)
                    poller.register(back, zmq.POLLIN)
                if self.requests(unpack(parts)):
                    backs[peer].send_multipart(parts)
            for peer, back in backs.items():
                if back in ready:
                    parts = back.recv_multipart()
                    if self.replies(unpack(parts)):
                        front.send_multipart([peer, *self.change(parts)])


@contextmanager
def relayed(server: str, folder: Path) -> Iterator[Relay]:
    """A relay to the server at that address."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    front = context.socket(zmq.ROUTER)
    front.bind(f"ipc://{folder}/relay")
    relay = Relay(f"ipc://{folder}/relay")
    thread = threading.Thread(target=relay.run, args=(front, context, server), name="test-relay", daemon=True)
    thread.start()
    try:
        yield relay
    finally:
        relay.ended.set()
        thread.join(WAIT_MS / 1000)
        context.destroy(linger=0)
