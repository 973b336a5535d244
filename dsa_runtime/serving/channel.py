"""Channel: one socket to a server, on which requests are asked until they are answered."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import monotonic

import zmq

from ..errors import ServerGoneError
from .link import LAP_MS, Link
from .wire import Bytes, Message, pack, unpack

_COPY_BELOW = 1 << 17  # bytes of a message from which on receiving without a copy pays
_SLOWEST_RESEND_S = 2.0
_PING_ID = 2**64 - 1

Handover = Callable[[Message], None]


class Restarted(Exception):
    """The server answers, but it is no longer the one that was asked (error `epoch`)."""


class Channel:
    """A DEALER socket and the ids of what is asked on it. One thread at a time."""

    def __init__(
        self, link: Link, handed_over: Handover | None = None, *, reply_bytes: int = 0, read_late: bool = False
    ) -> None:
        """handed_over   called with every message by which a draining server gives a session back unasked
        reply_bytes   size of a usual reply
        read_late     see `Link.socket`
        """
        self._link, self._handed_over = link, handed_over
        self._socket = link.socket(read_late=read_late)
        self._copy = reply_bytes < _COPY_BELOW
        self._ids = itertools.count(1)

    def next_id(self) -> int:
        """Ids of a channel grow, as those of a session's requests must."""
        return next(self._ids)

    def post(self, message: Message) -> None:
        """Send a request whose reply `ask` is to fetch later. Nothing is sent if it would have to wait."""
        with suppress(zmq.Again):
            self._socket.send_multipart(pack(message), zmq.NOBLOCK)

    def ask(self, message: Message, *, posted: bool = False, silence_ms: float | None = None) -> Message:
        """The reply to a request, an error included. It is sent again, with the same id, until it is answered.

        A server that says it is there is waited for as long as it takes. After a silence of the link's timeout (or
        `silence_ms`) this raises `ServerGoneError`; `Restarted` if the server has begun another life; and `WireError`
        if it sends something that is no message.
        """
        parts = pack(message)
        silence_s = (self._link.timeout_ms if silence_ms is None else silence_ms) / 1000
        epoch = message.fields.get("epoch")

        def is_news(reply: Message) -> bool:
            """All pings have one id: an answer may be to one of an earlier request, to a server that was known then."""
            return epoch is not None and reply.id == _PING_ID and reply.fields.get("epoch") != epoch

        heard = resend = monotonic()
        pause_s = LAP_MS / 1000
        if posted:
            resend += pause_s
        while True:
            if (now := monotonic()) >= resend and self._send(parts):
                resend = now + pause_s
                pause_s = min(2 * pause_s, _SLOWEST_RESEND_S)
            reply = self._receive()
            while reply is not None:  # replies of earlier requests may lie before it
                heard = monotonic()
                if reply.fields.get("code") == "epoch" and (reply.id == message.id or is_news(reply)):
                    raise Restarted("the server was started anew")
                if reply.id == message.id:
                    return reply
                reply = self._receive()
            if monotonic() - heard >= silence_s:
                raise ServerGoneError(f"{self._link.address}: no answer to {message.type!r} for {silence_s:g} s")
            if epoch is not None:
                self._send(pack(Message("ping", _PING_ID, {"epoch": epoch})))

    def hear(self) -> Iterator[Message]:
        """What has come unasked, or in answer to what was posted; does not wait."""
        while (message := self._receive(zmq.NOBLOCK)) is not None:
            yield message

    def close(self, linger_ms: int = 0) -> None:
        """Idempotent. In the background, what was posted gets so long to leave."""
        self._socket.close(linger_ms)

    def _send(self, parts: list[Bytes]) -> bool:
        """False if the server cannot be reached, or takes nothing; then a lap has gone by."""
        try:
            self._socket.send_multipart(parts)
        except zmq.Again:
            return False
        return True

    def _receive(self, flags: int = 0) -> Message | None:
        """The next message; None if a lap went by without. Handovers are put aside, if somebody takes them."""
        while True:
            try:
                if self._copy:
                    message = unpack(self._socket.recv_multipart(flags))
                else:
                    message = unpack([frame.buffer for frame in self._socket.recv_multipart(flags, copy=False)])
            except zmq.Again:
                return None
            if message.type != "handover" or self._handed_over is None:
                return message
            self._handed_over(message)
