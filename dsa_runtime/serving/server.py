"""Server: worlds for other processes. One thread takes messages in; each session has a thread that computes, and sends
its replies itself: to hand them to the first one would cost a thread switch more.

The desk and the socket that it answers on are used by one thread at a time, the one that holds their lock. So messages
are not waited for on the socket but on its file descriptor, which is edge-triggered: whatever is done on the socket may
use up its signal. Therefore whoever lets go of the lock first asks the socket whether something is there to be read.
"""

from __future__ import annotations

import math
import secrets
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from time import monotonic, perf_counter_ns

import zmq

from ..errors import ServingError
from ..world import World
from .bell import Bell
from .config import ServerConfig
from .desk import Desk
from .handlers import perform
from .host import Hosted, Outcome, Request, Route, Surroundings
from .observer import Observer
from .security import Guard
from .spectator import Publisher
from .wire import Message, WireError, error_message, pack, unpack

_MOST_AT_ONCE = 256  # messages, before other things get their turn
_BEAT_S = 0.5
_RETRY_CANCEL_S = 0.001
_STOP_S = 5.0  # for sessions to end
_SPARE_REPLIES = 32  # to pings and the like
_LINGER_MS = 500  # for the last replies to leave
OPTIONS = {
    zmq.LINGER: _LINGER_MS,
    # Large, and no ZMQ heartbeats on this side: libzmq aborts the process where a peer goes away whose queue is full
    # and a heartbeat is due or has yet to be read (4.3.5, stream_engine_base.cpp, `_io_error`). Leases take care of
    # sessions whose clients are gone, keep-alive of connections; a client's own heartbeats are answered.
    zmq.RCVHWM: 10_000,
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 30,
    zmq.TCP_KEEPALIVE_INTVL: 10,
    zmq.TCP_KEEPALIVE_CNT: 3,
}


class Server:
    """Answers the protocol DSA1 (PROTOCOL.md).

        server = Server({"my-world": world}, ServerConfig("tcp://127.0.0.1:5577"))
        server.bind()
        server.run()          # until `stop` or `drain` from another thread or a signal handler

    The worlds stay the caller's, to be closed after `run` has returned.
    """

    def __init__(self, worlds: Mapping[str, World], config: ServerConfig, observer: Observer | None = None) -> None:
        """worlds   by name; the first is the default. Raises `ServingError` if there is none"""
        self.config = config
        self.epoch = secrets.randbits(64)
        """Of this server's life."""
        self.address = ""
        """Where it listens, once it is bound; with the port that was chosen."""
        self.beat = monotonic()
        """When messages were last looked for, by the clock `time.monotonic`; at least once a second while it runs."""
        self._worlds, self._observer = dict(worlds), observer or Observer()
        self._stopping = self._draining = False
        self._drained_by = 0.0
        self._bell = Bell()
        self._lock = threading.Lock()  # of the desk, and of the socket on which it answers
        self._outcomes: deque[tuple[Hosted, Request, Outcome]] = deque()
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._guard: Guard | None = None
        self._publisher: Publisher | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._ended = threading.Event()
        if not self._worlds:
            raise ServingError("worlds: a server needs at least one")

    @property
    def draining(self) -> bool:
        """Whether `drain` was called."""
        return self._draining

    @property
    def publish_address(self) -> str | None:
        """Where spectators connect to, once it is bound."""
        return None if self._publisher is None else self._publisher.address

    def bind(self) -> None:
        """Listen. Raises `ServingError` if the address is unsafe or in use; then nothing is left behind."""
        self._context = zmq.Context()
        try:
            self._guard = Guard(self._context, self.config.access)
            self._socket = self._context.socket(zmq.ROUTER)
            for option, value in {**OPTIONS, zmq.MAXMSGSIZE: self.config.message_bytes}.items():
                self._socket.setsockopt(option, value)
            # For a client that does not read, so many replies are kept, and further ones dropped: it can ask again. One
            # that does, and has all the sessions, loses none: libzmq may count up to half of them as unread still.
            self._socket.setsockopt(zmq.SNDHWM, 2 * self.config.max_sessions + _SPARE_REPLIES)
            self.address = self._guard.bind(self._socket, self.config.bind)
            if self.config.publish is not None:
                self._publisher = Publisher(self._context, self.config.publish, self._guard.bind)
        except BaseException:
            self._release()
            raise

    def run(self) -> None:
        """Serve until told to end. Blocks; binds first where that was not done."""
        if self._socket is None:
            self.bind()
        assert self._socket is not None

        def done(hosted: Hosted, request: Request, outcome: Outcome) -> None:
            self._done(desk, hosted, request, outcome)

        surroundings = Surroundings(self.config, self._observer, self._publisher, done, perform)
        try:
            desk = Desk(self._worlds, surroundings, self._send, self.epoch, self.publish_address)
            self._loop(desk)
            self._settle(desk)
            if not self._stopping:  # the snapshots that are on their way may take all the time there is
                self._socket.setsockopt(zmq.LINGER, max(_LINGER_MS, _ms(self._drained_by - monotonic())))
        finally:
            self._release()
            self._ended.set()

    def stop(self) -> None:
        """From any thread or a signal handler: end now. Steps are cancelled, sessions closed, recordings written."""
        self._stopping = True
        self._bell.ring()

    def drain(self) -> None:
        """From any thread or a signal handler: hand the sessions back to their clients, then end."""
        self._draining = True
        self._bell.ring()

    def wait(self, timeout_s: float | None = None) -> bool:
        """From another thread: wait until `run` is about to return. Whether it is."""
        return self._ended.wait(timeout_s)

    def _loop(self, desk: Desk) -> None:
        assert self._socket is not None
        poller = zmq.Poller()
        poller.register(self._socket.FD, zmq.POLLIN)
        poller.register(self._bell.fileno(), zmq.POLLIN)
        while True:
            self.beat = monotonic()
            with self._lock:
                self._bell.clear()  # what it was rung for is looked at now
                if self._draining:
                    self._drained_by = desk.drain()
                self._take_outcomes(desk)
                self._take_messages(desk)
                desk.look_around()
                if self._stopping or desk.is_drained:
                    return
                seconds = _RETRY_CANCEL_S if desk.is_cancelling else min(_BEAT_S, desk.until_next())
                is_idle = not self._has_mail
            if is_idle and not self._outcomes:
                poller.poll(_ms(seconds))

    def _settle(self, desk: Desk) -> None:
        """Wait for the sessions to end, and answer what still ran."""
        deadline = monotonic() + _STOP_S
        poller = zmq.Poller()
        poller.register(self._bell.fileno(), zmq.POLLIN)
        with self._lock:
            desk.stop()
        while monotonic() < deadline:
            with self._lock:
                self._bell.clear()
                self._take_outcomes(desk)
                desk.look_around()
                if desk.is_empty:
                    break
                seconds = _RETRY_CANCEL_S if desk.is_cancelling else _BEAT_S
            if not self._outcomes:
                poller.poll(_ms(seconds))
        desk.join(max(deadline - monotonic(), 0.0))

    def _done(self, desk: Desk, hosted: Hosted, request: Request, outcome: Outcome) -> None:
        """On a session's thread: see to it that what came of a request is taken in, and answered. Does not wait:
        whoever holds the lock looks for outcomes, also after letting go of it."""
        self._outcomes.append((hosted, request, outcome))
        while self._outcomes and self._lock.acquire(blocking=False):
            try:
                self._take_outcomes(desk)
                if self._stopping or self._draining or self._has_mail:  # the other thread has something to look at
                    self._bell.ring()
            finally:
                self._lock.release()

    def _take_outcomes(self, desk: Desk) -> None:
        """With the lock."""
        while self._outcomes:
            hosted, request, outcome = self._outcomes.popleft()
            try:
                desk.complete(hosted, request, outcome)
            except Exception as error:  # no more threads, say; the other sessions go on
                hosted.around.failed(f"outcome of {request.message.type}", error)

    @property
    def _has_mail(self) -> bool:
        """Whether a message waits on the socket."""
        return self._socket is not None and bool(int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

    def _take_messages(self, desk: Desk) -> None:
        assert self._socket is not None
        for _ in range(_MOST_AT_ONCE):
            if not self._has_mail:
                return
            peer, *parts = self._socket.recv_multipart(zmq.NOBLOCK)
            delimited = bool(parts) and not parts[0]
            route = Route(peer, delimited)
            arrived_ns = perf_counter_ns()
            try:
                request = Request(unpack(parts[1:] if delimited else parts), route, arrived_ns)
            except WireError as error:
                self._send(route, error_message(error))
                self._observer.request("malformed", error.code, (perf_counter_ns() - arrived_ns) * 1e-9)
                continue
            desk.take(request)

    def _send(self, route: Route, message: Message) -> None:
        """Never waits: what a client does not fetch is dropped."""
        if self._socket is None:  # of a session that has taken too long to end
            return
        fields = {"epoch": self.epoch, **message.fields}
        parts = pack(Message(message.type, message.id, fields, message.buffers))
        envelope = [route.peer, b""] if route.delimited else [route.peer]
        with suppress(zmq.Again):
            self._socket.send_multipart([*envelope, *parts], zmq.NOBLOCK, copy=False)

    def _release(self) -> None:
        with self._lock:
            if self._publisher is not None:
                self._publisher.close()
            if self._socket is not None:
                self._socket.close()
            if self._guard is not None:
                self._guard.close()
            context, self._context = self._context, None
            self._publisher = self._socket = self._guard = None
        if context is not None:
            context.term()  # lingers
        self._bell.close()


def _ms(seconds: float) -> int:
    """For `poll`; rounded up, or the last millisecond would be spent asking again and again."""
    return max(math.ceil(seconds * 1000), 0)
