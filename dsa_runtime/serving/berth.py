"""Berth: a session's place at a server. Asks the session's requests there, and finds it a new place if that is lost."""

from __future__ import annotations

import math
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any, TypeVar

from ..errors import BusyError, DsaError, EngineError, ServerError, ServerGoneError
from ..spec import WorldSpec
from .answers import GONE, FrameSource, code_of, error_of, ring_of, snapshot_of
from .channel import Channel, Restarted
from .control import Control
from .fields import binary, integer, optional, uint64
from .journal import Journal
from .wire import Buffer, Message, WireError
from .wire_prompt import Prompt, prompt_parts

T = TypeVar("T")

_CLOSE_MS = 1000.0  # what is not closed by then ends with its lease
_GOODBYE_MS = 100  # for what was posted last
_PAUSE_S = 0.05  # between two attempts to find a new place
_ATTEMPTS = 3  # lives of the server that one call outlives
_MOST_MS = 2**53
_MOVING = ("reset", "restore", "rewind", "configure", "prompt")


@dataclass(frozen=True)
class Place:
    """Where a session is."""

    epoch: int
    sid: int
    lease_s: float
    topic: bytes | None = None


class Berth:
    """One thread at a time, but for `place`, `touched` and `hand_over`."""

    def __init__(
        self,
        control: Control,
        spec: WorldSpec,
        options: Mapping[str, Any],
        journal: Journal | None = None,
        *,
        any_frames: bool = False,
        prompt: Prompt | None = None,
    ) -> None:
        """options      fields of `open` but `key`
        journal      what it takes to make the session again; None for one that is lost with its server
        any_frames   where the server has no room for a ring, have the frames sent
        prompt       to open with; None for the world's first
        """
        self.control, self.spec, self.options, self.journal = control, spec, options, journal
        self.frames = FrameSource(spec.frame)
        self.any_frames, self.prompt = any_frames, prompt
        self.place: Place | None = None
        """None while it has none."""
        self.stepping: int | None = None
        """Id of the step that is being asked."""
        self.touched = monotonic()
        """When the server last heard about it."""
        self.tick = 0
        """Of the session, for its user."""
        self.controller: Mapping[str, Any] | None = None
        """The one in force, if it is not the one that it was opened with."""
        reply_bytes = 0 if options.get("frames") == "shm" else math.prod(spec.frame.tick_shape)
        # What reaches another server than it was meant for does no harm: it names the epoch and the session.
        self._channel = Channel(control.link, self.hand_over, reply_bytes=reply_bytes, read_late=True)
        self._handing = threading.Lock()
        self._handed: tuple[int, bytes] | None = None  # what a draining server gave back: tick, snapshot
        self._moving = False  # the request under way takes the session elsewhere without counting a tick
        self._left: Place | None = None  # one that may still be held
        self._lost: ServerGoneError | None = None
        self._posted: Message | None = None  # the request for a checkpoint that is under way
        self._closed = False

    @property
    def is_over(self) -> bool:
        """Whether it has no place and will find none. From any thread."""
        return self._closed or self._lost is not None

    def open(self) -> None:
        """Take a place at the server."""
        for _ in range(_ATTEMPTS):
            try:
                return self._open(self.control.welcome.epoch)
            except Restarted:
                pass
            except WireError as error:
                raise ServerError(f"{self.control.link.address}: a reply that makes no sense: {error}") from None
            self.control.greet(self.spec, self._channel)
        raise ServerGoneError("the server restarts again and again")

    def take(self, place: Place) -> None:
        """Take a place that was made by a fork. Its frames come as parts where the others' come in a ring."""
        self.place = place
        if self.options.get("frames") == "shm":
            try:
                self.ask("configure", {"frames": "shm"}, read=self._attach)
            except BusyError as error:
                if not _lacks_room(error):
                    raise
                self.options = {**self.options, "frames": "part"}

    def ask(
        self,
        type: str,
        fields: Mapping[str, Any],
        buffers: Sequence[Buffer] = (),
        read: Callable[[Message], T] = lambda reply: None,  # type: ignore[assignment, return-value]
    ) -> T:
        """What `read` makes of the reply to a request about the session, which has then happened exactly once.

        Raises what an error of the server stands for. `ServerGoneError`: the session is lost; one with a journal only
        for now, and the next call tries again.
        """
        self._moving = type in _MOVING
        try:
            for _ in range(_ATTEMPTS):
                if self._lost is not None:
                    raise ServerGoneError(str(self._lost), code=self._lost.code, snapshot=self._lost.snapshot)
                try:
                    if self.place is None:
                        self._recover()
                    self._collect()
                    return read(self._request(type, fields, buffers))
                except Restarted:
                    self._lose(ServerGoneError("the server has restarted: the session was lost with it", code="epoch"))
                except ServerGoneError as error:
                    if error.code not in GONE:
                        raise
                    self._lose(error)
            raise ServerGoneError("the session is lost again and again")
        except WireError as error:
            self._lose(ServerGoneError(f"the session was lost to a reply that makes no sense: {error}"))
            raise ServerError(f"{self.control.link.address}: a reply that makes no sense: {error}") from None
        except ServerGoneError as error:
            self._lose(error)
            raise
        except DsaError as error:
            if isinstance(error, ServerError) and error.code == "internal":
                self._lose(ServerGoneError(f"the session was lost to a defect of the server: {error}"))
            raise
        except BaseException:
            self._lose(ServerGoneError("the session was lost when a call was interrupted: its outcome is not known"))
            raise

    def checkpoint(self) -> None:
        """Ask for a snapshot, without waiting for it: the next request does."""
        if self.place is not None:
            self._posted = self._about(self.place, "snapshot", {})
            self._channel.post(self._posted)

    def hand_over(self, message: Message) -> None:
        """A draining server has given a session back. From any thread."""
        snapshot, sid = snapshot_of(message), optional(uint64, message.fields, "sid")
        with self._handing:
            if snapshot is not None and self.place is not None and self.place.sid == sid:
                self._handed = uint64(message.fields, "tick"), snapshot

    def leave(self) -> None:
        """Give the place up and close the socket. Idempotent."""
        place = self.place or self._left
        self.place = self._left = None
        self._closed = True
        if place is not None:
            with suppress(ServerError, Restarted, WireError):
                silence_ms = min(_CLOSE_MS, self.control.link.timeout_ms)
                self._channel.ask(self._about(place, "close", {}), silence_ms=silence_ms)
        self._channel.close(_GOODBYE_MS)
        self.frames.close()

    def _open(self, epoch: int) -> None:
        options = dict(self.options)
        if self.journal is not None and isinstance(self.journal.start, int):
            options["seed"] = self.journal.start
        prompt, buffers = prompt_parts(self.prompt)
        fields = {"epoch": epoch, "key": secrets.randbits(64), **options, **prompt}
        try:
            reply = self._ask(Message("open", self._channel.next_id(), fields, buffers))
        except BusyError as error:
            if not (self.any_frames and options["frames"] == "shm" and _lacks_room(error)):
                raise
            self.options = {**self.options, "frames": "part"}
            return self._open(epoch)
        lease_s = integer(reply.fields, "lease_ms", 1, _MOST_MS) / 1000
        with self._handing:
            self._handed = None
            self.place = Place(epoch, uint64(reply.fields, "sid"), lease_s, optional(binary, reply.fields, "topic"))
        self._attach(reply)

    def _request(self, type: str, fields: Mapping[str, Any], buffers: Sequence[Buffer] = ()) -> Message:
        assert self.place is not None
        message = self._about(self.place, type, fields, buffers)
        if type != "step":
            return self._ask(message)
        self.stepping = message.id
        try:
            return self._ask(message)
        finally:
            self.stepping = None

    def _about(self, place: Place, type: str, fields: Mapping[str, Any], buffers: Sequence[Buffer] = ()) -> Message:
        id = self._channel.next_id()
        return Message(type, id, {"epoch": place.epoch, "sid": place.sid, **fields}, tuple(buffers))

    def _ask(self, message: Message, posted: bool = False) -> Message:
        reply = self._channel.ask(message, posted=posted)
        self.touched = monotonic()
        if code_of(reply) is None:
            return reply
        self.hand_over(reply)
        error = error_of(reply)
        if isinstance(error, EngineError) and self.journal is not None and self.options["on_miss"] == "repeat":
            self.journal.is_exact = False  # it may be a tick answered by `repeated` that has failed, and is no more
        raise error

    def _collect(self) -> None:
        """Wait for the checkpoint that is under way."""
        message, self._posted = self._posted, None
        if message is not None and self.journal is not None:
            self.journal.checkpoint(binary({"snapshot": snapshot_of(self._ask(message, posted=True))}, "snapshot"))

    def _attach(self, reply: Message) -> None:
        """Use the ring that a reply tells of; if it cannot be reached, have the frames sent."""
        ring = ring_of(reply)
        if ring is not None and not self.frames.attach(ring):
            self.options = {**self.options, "frames": "part"}
            self._request("configure", {"frames": "part"})

    def _lose(self, error: ServerGoneError) -> None:
        """The place is gone, or what became of the last request is not known. Without a journal that is the end."""
        with self._handing:
            handed, self._handed = self._handed, None
        snapshot = error.snapshot
        # One that came unasked may show the world after a request whose reply was never seen.
        if snapshot is None and handed is not None and handed[0] == self.tick and not self._moving:
            snapshot = handed[1]
        self._posted = None
        if self.journal is not None and snapshot is not None:
            self.journal.checkpoint(snapshot)
        elif self.journal is None and self._lost is None:
            self._lost, error.snapshot = error, snapshot
        if error.code == "draining" and self.place is not None:  # it waits to hear that this has arrived
            self._channel.post(self._about(self.place, "close", {}))
        if error.code not in (*GONE, "epoch"):
            self._left = self.place or self._left
        self.place = None

    def _recover(self) -> None:
        """Make the session again as it was. Raises `ServerGoneError` if that cannot be done in the link's time."""
        assert self.journal is not None
        if not self.journal.is_exact:
            raise ServerGoneError("the session was lost before it was known what a tick answered by 'repeated' came to")
        give_up = monotonic() + self.control.link.timeout_ms / 1000
        while True:
            try:
                return self._rebuild(self.journal, self.control.greet(self.spec, self._channel))
            except (Restarted, BusyError, ServerGoneError) as error:
                if isinstance(error, ServerGoneError) and error.code not in GONE:
                    raise
                if monotonic() >= give_up:
                    raise ServerGoneError(f"the session could not be made again: {error}") from None
            self.place = None
            sleep(_PAUSE_S)

    def _rebuild(self, journal: Journal, epoch: int) -> None:
        left, self._left = self._left, None
        if left is not None and left.epoch == epoch:
            self._channel.post(self._about(left, "close", {}))  # it was silent only, or has let the lease run out
        self._open(epoch)
        try:
            if isinstance(journal.start, bytes):
                self._request("restore", {}, [Buffer.of_bytes("snapshot", journal.start)])
            for move in journal.moves():
                self._request(*move.request())
            if self.controller is not None:
                self._request("configure", {"controller": self.controller})
        except BaseException:  # half made, it must not be taken for the session
            with self._handing:
                self._handed = None
                self._left, self.place = self.place, None
            raise


def _lacks_room(error: BusyError) -> bool:
    """Whether a ring could not be made; without one there may be room."""
    return error.code in ("capacity", "busy") and str(error).startswith("frames:")
