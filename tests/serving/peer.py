"""Peer: a client that speaks the protocol by hand, and can be as rude as a test wants."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import zmq

from dsa_runtime.serving.wire import Buffer, Bytes, Message, pack, unpack
from dsa_runtime.serving.wire_tick import raw_pixels

WAIT_MS = 30_000  # for what must happen; a test that waits this long has failed
_KEYS = itertools.count(1_000_000)  # a test's own are smaller


class Peer:
    """A DEALER. Use it in a `with` statement."""

    def __init__(self, address: str) -> None:
        self.epoch = 0
        self._ids = itertools.count(1)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(address)

    @classmethod
    def greeted(cls, address: str) -> Peer:
        """One that has said hello."""
        peer = cls(address)
        peer.epoch = peer.ask("hello", min=1, max=1).fields["epoch"]
        return peer

    def send_parts(self, parts: Sequence[Bytes]) -> None:
        """Whatever it is."""
        self.socket.send_multipart(parts)

    def send(self, type: str, id: int | None = None, buffers: tuple[Buffer, ...] = (), **fields: Any) -> int:
        """A request; returns its id, the next one if none is given."""
        id = next(self._ids) if id is None else id
        epoch = {} if type == "hello" else {"epoch": self.epoch}
        self.send_parts(pack(Message(type, id, {**epoch, **fields}, buffers)))
        return id

    def receive(self, timeout_ms: int = WAIT_MS) -> Message:
        """The next reply."""
        assert self.socket.poll(timeout_ms), "no reply"
        parts = self.socket.recv_multipart()
        return unpack(parts[1:] if not parts[0] else parts)  # the server mirrors an empty part

    def hears(self, timeout_ms: int) -> bool:
        """Whether a reply comes in time."""
        return bool(self.socket.poll(timeout_ms))

    def ask(self, type: str, id: int | None = None, buffers: tuple[Buffer, ...] = (), **fields: Any) -> Message:
        """A request and its reply, which must have its id."""
        id = self.send(type, id, buffers, **fields)
        reply = self.receive()
        assert reply.id == id
        return reply

    def open(self, seed: int = 7, **fields: Any) -> int:
        """A new session's sid."""
        reply = self.ask("open", key=next(_KEYS), seed=seed, **fields)
        assert reply.type == "opened", reply.fields
        sid: int = reply.fields["sid"]
        return sid

    def step(self, sid: int, action: Any = 1, id: int | None = None, **fields: Any) -> Message:
        """A tick without a time limit, unless `budget_us` says otherwise."""
        return self.ask("step", id, sid=sid, action=action, **{"budget_us": -1, **fields})

    def close(self) -> None:
        self.socket.close()
        self._context.term()

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def pixels(reply: Message) -> np.ndarray:
    """Of a reply with a raw frame."""
    return raw_pixels(reply.buffer("frame"))


def snapshot_of(reply: Message) -> bytes:
    """Of a reply with one."""
    data = reply.buffer("snapshot").data
    assert data is not None
    return bytes(data)


def refusal(reply: Message) -> tuple[str, str]:
    """Code and `ran` of an error."""
    assert reply.type == "error", reply
    fields: Mapping[str, Any] = reply.fields
    return fields["code"], fields["ran"]
