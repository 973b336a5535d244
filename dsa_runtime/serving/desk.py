"""Desk: who asked what of which session, and who is answered. The protocol's rules, without sockets.

One thread at a time, the one that holds the server's lock. Everything here takes microseconds; what takes longer is
handed to the sessions' threads (`handlers`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from time import monotonic, perf_counter_ns

from ..session import Session
from ..world import World
from . import fields as read
from .about import About, client_name
from .admission import Admission
from .cancels import Cancels
from .counts import Counts
from .draining import Draining
from .host import Hosted, Outcome, Request, Route, Surroundings
from .outlet import Outlet
from .roster import Roster
from .wire import Message, WireError, error_message

Send = Callable[[Route, Message], None]

_KNOWN = (
    "hello", "specs", "stats", "open", "ping", "cancel", "close", "step", "reset", "restore", "rewind", "snapshot",
    "fork", "configure", "prompt",
)  # fmt: skip


class Desk:
    """A server's sessions, and the requests under way."""

    def __init__(
        self, worlds: Mapping[str, World], around: Surroundings, send: Send, epoch: int, publish_address: str | None
    ) -> None:
        self._worlds, self._around, self._send, self._epoch = dict(worlds), around, send, epoch
        self._config, self._observer = around.config, around.observer
        self._about = About(self._worlds, self._config, publish_address)
        self._admission = Admission(self._config)
        self._counts = Counts()
        self._roster = Roster()
        self._cancels = Cancels(self._answer)
        self._draining = Draining(self._config.drain_s, send, self._answer)
        self._growing = 0  # sessions that forks under way will add
        self._stopping = False
        self._stopped: list[Hosted] = []

    # What the I/O loop asks.

    @property
    def is_cancelling(self) -> bool:
        """Whether a step has yet to be told to stop: look around again soon."""
        return self._cancels.are_waiting

    @property
    def is_drained(self) -> bool:
        """Whether `drain` was called, and all sessions are with their clients again or the time for that is over."""
        return self._draining.is_over(self._roster, growing=self._growing > 0)

    @property
    def is_empty(self) -> bool:
        """Whether no session is left, not even one that is being closed."""
        return self._roster.is_empty

    def until_next(self) -> float:
        """Seconds until `look_around` has something to do."""
        return min(self._roster.next_lapse, self._draining.until) - monotonic()

    def look_around(self) -> None:
        """Do what is due: tell steps to stop, close the sessions whose leases have run out."""
        self._cancels.again()
        for hosted in self._roster.lapsed():
            self._counts.reaped += 1
            self._observer.reaped(hosted.sid)
            self._end(hosted, "reaped")

    def drain(self) -> float:
        """Hand the sessions back, each after what it is at; returns when that ends at the latest. Idempotent."""
        self._draining.begin(self._roster)
        return self._draining.until

    def stop(self) -> None:
        """Cancel what runs and close every session; new ones too, which forks under way bring."""
        self._stopping = True
        for hosted in self._roster:
            self._end(hosted, "stopped")

    def join(self, timeout_s: float) -> None:
        """Wait for the threads of the sessions that were closed since `stop`. They have nothing left to do."""
        deadline = monotonic() + timeout_s
        for hosted in self._stopped:
            hosted.join(max(deadline - monotonic(), 0.0))

    # A request comes in.

    def take(self, request: Request) -> None:
        """Answer a request, or hand it to a session."""
        try:
            reply = self._handle(request)
        except WireError as error:
            reply = error_message(error)
        except Exception as error:  # a defect; the server goes on
            reply = error_message(self._around.defect(f"request {request.message.type[:20]!r}", error))
        if reply is not None:
            self._answer(request, reply)

    def _handle(self, request: Request) -> Message | None:
        """The reply, or None: it comes later."""
        kind, fields = request.message.type, request.message.fields
        if kind not in _KNOWN:
            raise WireError("unsupported", f"t: unknown type of request {kind[:40]!r}")
        if kind == "hello":
            self._observer.greeted(client_name(fields))
            return self._about.welcome(fields)
        if read.uint64(fields, "epoch") != self._epoch:
            raise WireError("epoch", "the server was started anew: say hello, open and restore")
        if kind == "specs":
            return self._about.specs(self._about.world(fields))
        if kind == "stats":
            return self._stats()
        if kind == "open":
            return self._open(request)
        if kind == "ping" and fields.get("sid") is None:
            return Message("pong", request.id)
        return self._about_session(request)

    def _about_session(self, request: Request) -> Message | None:
        kind, sid = request.message.type, read.uint64(request.message.fields, "sid")
        hosted = self._roster.get(sid)
        if hosted is None and kind == "close":
            return Message("closed", request.id, {"sid": sid})
        if hosted is None:
            raise WireError("session", "no such session: it was closed, its lease has run out, or it never was")
        hosted.hear(request)
        if kind == "cancel":
            self._cancels.ask(hosted, request)
            return None
        if kind == "close":
            self._end(hosted, "closed", request)
            return None
        if kind != "ping":
            if hosted.running is not None and hosted.running.id == request.id:
                hosted.running.adopt(request)
                return None
            if hosted.running is None and hosted.stored is not None and hosted.last_id == request.id:
                return hosted.stored
            newest = hosted.last_id if hosted.running is None else hosted.running.id
            if request.id <= newest:
                raise WireError("invalid", f"id: must be greater than {newest}, got {request.id}", ran="unknown")
        if self._draining.has_begun:
            return self._draining.ask(hosted, request)
        if kind == "ping":
            return Message("pong", request.id, {"sid": sid})
        if hosted.running is not None:
            raise WireError("busy", "another request of this session runs; one at a time")
        return self._start_fork(hosted, request) if kind == "fork" else self._start(hosted, request)

    def _start(self, hosted: Hosted, request: Request) -> Message | None:
        hosted.running = request
        hosted.post(request)
        return None

    def _start_fork(self, hosted: Hosted, request: Request) -> Message | None:
        fields = request.message.fields
        count = 1 if fields.get("n") is None else read.integer(fields, "n", 1, self._config.max_sessions)
        known = self._roster.of_key(read.uint64(fields, "key"))
        if known:
            if known[0].opened is not None or known[0].is_opening:
                raise WireError("invalid", "key: is that of a session that was opened; draw another one")
            hosted.last_id = request.id
            hosted.stored = Message("forked", request.id, {"sid": hosted.sid, "sids": [branch.sid for branch in known]})
            return hosted.stored
        self._admit(hosted.world, count)
        self._growing += count
        return self._start(hosted, request)

    def _open(self, request: Request) -> Message | None:
        fields = request.message.fields
        key = read.uint64(fields, "key")
        known = self._roster.of_key(key)
        if known:
            hosted = known[0]
            hosted.hear(request)
            if hosted.running is not None and hosted.is_opening:
                hosted.running.adopt(request)
                return None
            if hosted.opened is None:
                raise WireError("invalid", "key: is that of a fork; draw another one")
            return hosted.opened
        name = self._about.world(fields)
        lease_ms = self._config.lease_ms
        if fields.get("lease_ms") is not None:
            lease_ms = read.integer(fields, "lease_ms", 1, self._config.lease_most_ms)
        self._admit(self._worlds[name], 1)
        hosted = Hosted(name, self._worlds[name], self._around, key, lease_ms)
        hosted.route = request.route
        self._roster.add(hosted)
        return self._start(hosted, request)

    def _admit(self, world: World, count: int) -> None:
        try:
            if self._draining.has_begun:
                raise WireError("draining", "the server is about to end; ask another one")
            self._admission.check(self._roster.worlds, world.spec, count + self._growing)
        except WireError as error:
            self._counts.refused += 1
            self._observer.refused(error.code, str(error))
            raise

    # An outcome comes back from a session.

    def complete(self, hosted: Hosted, request: Request, outcome: Outcome) -> None:
        """Take in what came of a request, and answer it."""
        kind, reply = request.message.type, outcome.reply
        hosted.renew()
        if kind == "close":
            reason = self._roster.left(hosted)
            if reason != "failed":  # to open
                self._observer.closed(hosted.sid, reason)
            if self._stopping:
                self._stopped.append(hosted)
            self._answer(request, reply)
            return
        if kind == "handover":
            self._draining.take(hosted, reply, unasked=not self._roster.is_leaving(hosted))
            return
        hosted.running = None
        self._cancels.settle(hosted, reply.fields.get("code") == "cancelled")
        if kind == "open":
            self._opened(hosted, reply)
        else:
            hosted.last_id, hosted.stored = request.id, reply
        if kind == "fork":
            self._growing -= 1 if request.message.fields.get("n") is None else request.message.fields["n"]
            self._branch(hosted, request, outcome.branches)
        self._answer(request, reply)
        if outcome.tick is not None:
            self._counts.tick(outcome.tick)
            self._admission.observe(hosted.world.spec, outcome.tick, outcome.commit_ms)
            self._observer.tick(outcome.tick)

    def _opened(self, hosted: Hosted, reply: Message) -> None:
        if reply.type != "error":
            hosted.opened = reply
            self._counts.opened += 1
            self._observer.opened(hosted.sid, hosted.name)
        elif not self._roster.is_leaving(hosted):
            self._end(hosted, "failed")

    def _branch(self, hosted: Hosted, request: Request, branches: Mapping[int, tuple[Session, Outlet]]) -> None:
        """Take in the sessions that a fork has made."""
        key: int = request.message.fields["key"]
        for sid, (session, outlet) in branches.items():
            branch = Hosted(hosted.name, hosted.world, self._around, key, hosted.lease_ms, sid)
            branch.session, branch.outlet, branch.route = session, outlet, hosted.route
            self._roster.add(branch)
            self._counts.opened += 1
            self._observer.opened(sid, hosted.name)
            if self._stopping:
                self._end(branch, "stopped")
            elif self._draining.has_begun:
                self._draining.add(branch)

    def _answer(self, request: Request, reply: Message) -> None:
        if request.route is None:
            return
        self._send(request.route, dataclasses.replace(reply, id=request.id))
        kind = request.message.type if request.message.type in _KNOWN else "unknown"
        code = str(reply.fields["code"]) if reply.type == "error" else "ok"
        self._counts.requests += 1
        self._counts.errors += code != "ok"
        seconds = (perf_counter_ns() - request.arrived_ns) * 1e-9
        self._observer.request(kind, code, seconds)

    # Sessions come and go.

    def _end(self, hosted: Hosted, reason: str, request: Request | None = None) -> None:
        """Close a session after what it is at, which is cancelled. Its client has asked for that, or nobody has."""
        self._roster.dismiss(hosted, reason)
        hosted.post(request or Request(Message("close", 0), None))
        hosted.dismiss()
        self._cancels.stop(hosted)

    def _stats(self) -> Message:
        described = {
            "sessions": len(self._roster),
            **self._counts.fields(),
            "load": self._admission.load(self._roster.worlds),
            "slots": sum(world.slots for world in self._worlds.values()),
            "draining": self._draining.has_begun,
        }
        return Message("stats", 0, described)
