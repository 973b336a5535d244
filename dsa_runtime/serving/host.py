"""Hosted: one session on the server, and the thread that serves it."""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from time import monotonic, perf_counter_ns

from ..recording import Recording
from ..session import Session
from ..tick import Tick
from ..world import World
from .config import ServerConfig
from .observer import Observer, label
from .outlet import Outlet
from .spectator import Publisher
from .wire import Message, WireError


@dataclass(frozen=True)
class Route:
    """Where a reply goes: a ROUTER's peer, and whether it expects an empty part first, as REQ sockets do."""

    peer: bytes
    delimited: bool


@dataclass(eq=False)
class Request:
    """A message on its way through the server."""

    message: Message
    route: Route | None
    """Of the newest asker; None where the server itself asks."""
    arrived_ns: int = field(default_factory=perf_counter_ns)
    id: int = 0
    """Of the newest asker's message: what the reply bears."""
    cancelled: bool = False
    """Set before the session is told to stop, for the case that it has not begun."""

    def __post_init__(self) -> None:
        self.id = self.message.id

    def adopt(self, other: Request) -> None:
        """Answer this newer asker instead."""
        self.route, self.id = other.route, other.id


@dataclass(frozen=True)
class Outcome:
    """What came of a request."""

    reply: Message
    tick: Tick | None = None
    commit_ms: float = 0.0
    """What the tick's commit is expected to take."""
    branches: dict[int, tuple[Session, Outlet]] = field(default_factory=dict)
    """New sessions by their sids."""
    then: tuple[Callable[[], None], ...] = ()
    """What is done after the reply is on its way."""


@dataclass(frozen=True)
class Surroundings:
    """What all sessions of a server share. Thread-safe."""

    config: ServerConfig
    observer: Observer
    publisher: Publisher | None
    done: Callable[[Hosted, Request, Outcome], None]
    """Takes the outcome to the desk. Never waits."""
    perform: Callable[[Hosted, Request], Outcome]
    """What a session's thread does with a request. Never raises."""
    incidents: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def failed(self, what: str, error: Exception) -> int:
        """Report an unexpected error; returns the number by which the log knows it."""
        incident = next(self.incidents)
        self.observer.failed(what, incident, error)
        return incident

    def defect(self, what: str, error: Exception) -> WireError:
        """The same, and what the peer is told of it."""
        incident = self.failed(what, error)
        problem = f"internal error, see incident {incident} in the server's log"
        return WireError("internal", problem, ran="unknown", extra={"incident": incident})


class Hosted:
    """A session, the requests it has been asked, and its lease.

    The attributes of the first group belong to the desk, those of the second to the session's thread; each thread
    leaves the others alone, but for `session`, which has a `cancel` for all.
    """

    def __init__(
        self, name: str, world: World, around: Surroundings, key: int, lease_ms: int, sid: int | None = None
    ) -> None:
        """Starts the thread; end it by a request that closes the session, then `dismiss`."""
        self.sid = secrets.randbits(64) if sid is None else sid
        self.name, self.world, self.around, self.key = name, world, around, key
        self.lease_ms = lease_ms
        # The desk's.
        self.route: Route | None = None
        """Of whoever asked last about this session."""
        self.running: Request | None = None
        self.waiting: list[Request] = []
        """Came while the session was being handed over."""
        self.opened: Message | None = None
        """The reply to `open`; the same for every retry."""
        self.last_id = 0
        self.stored: Message | None = None
        """The reply to `last_id`."""
        self.handover: Message | None = None
        """The snapshot, once the server drains."""
        self.handed_over = False
        """Whether it is known to have arrived."""
        self.told: Request | None = None
        """The newest request that was answered by it."""
        self.deadline = monotonic() + lease_ms / 1000
        # The session's thread's.
        self.session: Session | None = None
        self.outlet: Outlet | None = None
        self._saved = 0
        self._requests: SimpleQueue[Request | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=f"dsa-session-{label(self.sid)}", daemon=True)
        self._thread.start()

    def post(self, request: Request) -> None:
        """Let the session's thread perform a request, after those posted before."""
        self._requests.put(request)

    def dismiss(self) -> None:
        """Let the thread end after what was posted."""
        self._requests.put(None)

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end; whether it has."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def hear(self, request: Request) -> None:
        """Somebody asks about this session."""
        self.route = request.route
        self.renew()

    def renew(self) -> None:
        """The lease begins anew."""
        self.deadline = monotonic() + self.lease_ms / 1000

    @property
    def is_opening(self) -> bool:
        """Whether its `open` is still under way."""
        return self.running is not None and self.running.message.type == "open"

    @property
    def has_lapsed(self) -> bool:
        """Whether the lease has run out. It does not while a request runs."""
        return self.running is None and monotonic() >= self.deadline

    def try_cancel(self) -> bool:
        """Stop the step that runs. False if it has not begun, or is finished: try again until its outcome is there."""
        assert self.running is not None
        self.running.cancelled = True
        return self.session is not None and self.session.cancel()

    def save(self, recording: Recording | None) -> None:
        """Write a recording to the server's folder. A disk that is full costs the recording and nothing else."""
        folder = self.around.config.record
        if folder is None or recording is None or not recording.decisions:
            return
        self._saved += 1
        path = folder / f"{recording.world}-{label(self.sid)}-{self._saved:03}.json"
        try:
            recording.save(path)
        except OSError as error:
            self.around.failed(f"recording {path.name} was lost", error)

    def _serve(self) -> None:
        while self._serve_one():
            pass

    def _serve_one(self) -> bool:
        """Wait for a request and perform it; False if there are to be no more. What it was about, which may be large,
        is let go before the next one is waited for."""
        request = self._requests.get()
        if request is None:
            return False
        outcome = self.around.perform(self, request)
        self.around.done(self, request, outcome)
        for action in outcome.then:
            try:
                action()
            except Exception as error:
                self.around.failed("after a reply", error)
        return True
