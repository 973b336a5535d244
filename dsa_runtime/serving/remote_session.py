"""RemoteSession: a session at a server, used as one in this process is."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import snapshot as snapshots
from .. import strict_json
from ..actions import Discrete
from ..arguments import check_budget, check_count, check_seed, check_steps
from ..controller import Controller
from ..errors import SessionError
from ..tick import Tick
from .answers import snapshot_of
from .berth import Berth, Place
from .fields import array, binary, optional, text, uint64
from .heartbeat import Heartbeat
from .journal import Journal
from .wire import Buffer, Message
from .wire_prompt import Prompt, checked_prompt, filled_prompt, prompt_parts
from .wire_tick import budget_us, tick_of

if TYPE_CHECKING:
    from ..watchdog import OnMiss

_MOST_FORKS = 1 << 10


class RemoteSession:
    """One running world at a server. Made by `Connection.session` and by `fork`; used as a `Session` is.

    What is different: a budget counts from the arrival of the request at the server, so the way there and back comes on
    top (`round_trip_ms`). The session lives at the server while this process does, and some seconds longer: its lease
    is renewed in the background. A request that is lost on the way is sent again, and is still carried out once.

    A call that raises leaves the session as it was, with one exception: `ServerGoneError` says that the session is
    lost, as the server has restarted or does not answer. With `recover=True` it is made again instead, as it was, at
    the server as soon as that is back, and the call goes on; `ServerGoneError` then says that there was none in time,
    and the next call tries again.

    Several sessions may be used on different threads at the same time, each has a socket of its own. One session
    serves one thread at a time and refuses a second one, except for `cancel`.
    """

    def __init__(
        self,
        berth: Berth,
        heartbeat: Heartbeat,
        seed: int,
        controller: Controller,
        on_miss: OnMiss,
        prompt: Prompt | None,
    ) -> None:
        """For `Connection.session` and `fork`. Takes over the berth."""
        self.spec = berth.spec
        self.round_trip_ms = 0.0
        """From call to return of the newest `step`. What is more than its `latency_ms["total"]` was the way."""
        self._berth, self._heartbeat = berth, heartbeat
        self._seed, self._controller, self._on_miss, self._prompt = seed, controller, on_miss, prompt
        self._entered = threading.Lock()
        self._closed = False
        heartbeat.add(berth)

    @property
    def tick(self) -> int:
        """Index of the next tick. One that was answered by `repeated` counts as finished."""
        return self._berth.tick

    @property
    def seed(self) -> int:
        """The seed of the last reset."""
        return self._seed

    @property
    def controller(self) -> Controller:
        """How steps are allocated. May be replaced between two ticks."""
        return self._controller

    @controller.setter
    def controller(self, controller: Controller) -> None:
        with self._used():
            fields = strict_json.encode(controller)
            self._berth.ask("configure", {"controller": fields})
            self._berth.controller, self._controller = fields, controller

    @property
    def on_miss(self) -> OnMiss:
        """What a tick does that cannot keep its budget; see `World.session`."""
        return self._on_miss

    @property
    def prompt(self) -> str | np.ndarray | None:
        """The text it is conditioned on; as `Session.prompt`."""
        return None if self._prompt is None else filled_prompt(self.spec, self._prompt)

    def set_prompt(self, prompt: str | np.ndarray) -> None:
        """Condition the coming ticks on another text; as `Session.set_prompt`."""
        with self._used():
            found = checked_prompt(self.spec, prompt)
            self._berth.ask("prompt", *prompt_parts(found))
            self._prompt = found
            if self._berth.journal is not None:
                self._berth.journal.swap(found)
                self._keep_exact(self._berth.journal)

    @property
    def topic(self) -> bytes | None:
        """What spectators subscribe to, if the session was opened with `publish=True`. A recovery changes it."""
        place = self._berth.place
        return None if place is None else place.topic

    def step(self, action: Any, budget_ms: float | None = None, *, steps: int | None = None) -> Tick:
        """Advance the world by one tick and return its frame; as `Session.step`.

        budget_ms   from the arrival of the request at the server until its reply is on its way
        """
        started = perf_counter()
        with self._used():
            space, journal = self.spec.action_space, self._berth.journal
            valid = space.validate(action)
            fields = {"action": valid if isinstance(space, Discrete) else valid.tolist()}  # type: ignore[union-attr]
            if budget_ms is not None:
                fields["budget_us"] = budget_us(check_budget(budget_ms))
            if steps is not None:
                fields["steps"] = check_steps(steps, self.spec.schedule.steps)
            tick = self._berth.ask("step", fields, read=self._read_tick)
            self._berth.tick = tick.tick + (tick.status != "skipped")
            if journal is not None:
                journal.note(fields["action"], tick)
                if journal.is_due:
                    self._berth.checkpoint()
            self.round_trip_ms = (perf_counter() - started) * 1000
            return tick

    def cancel(self) -> bool:
        """From any thread: let the `step` that another thread is in raise `CancelledError` at once.

        False if there is none at the server, or if its frame is finished already: then it returns that.
        """
        place, step = self._berth.place, self._berth.stepping
        return place is not None and step is not None and self._berth.control.cancel(place.epoch, place.sid, step)

    def reset(self, seed: int) -> np.ndarray:
        """Start over from context `seed % contexts`; returns its last picture, `uint8[H, W, 3]`."""
        with self._used():
            seed = check_seed(seed)
            picture, _ = self._moved("reset", {"seed": seed})
            if self._berth.journal is not None:
                self._berth.journal.begin(seed)
                self._berth.prompt = self._prompt
            return picture

    def snapshot(self) -> bytes:
        """Everything that decides the session's future, for `restore` here, at another server, or in a `Session`."""
        with self._used():
            snapshot = self._berth.ask("snapshot", {}, read=_read_snapshot)
            if self._berth.journal is not None:
                self._berth.journal.checkpoint(snapshot)
            return snapshot

    def restore(self, snapshot: bytes) -> np.ndarray:
        """Go on from a snapshot of the same world; returns its newest picture, `uint8[H, W, 3]`.

        Raises `SnapshotError` if it is damaged, of another world or of another version.
        """
        with self._used():
            found = snapshots.decode(self.spec, snapshot)
            snapshot = bytes(snapshot)
            picture, name = self._moved("restore", {}, Buffer.of_bytes("snapshot", snapshot))
            self._prompt = found.text if name is None else name
            self._controller, self._berth.controller = found.controller, strict_json.encode(found.controller)
            if self._berth.journal is not None:
                self._berth.journal.begin(snapshot)
            return picture

    def rewind(self, ticks: int) -> np.ndarray:
        """Undo the last `ticks` ticks; returns the picture the session is back at, `uint8[H, W, 3]`."""
        with self._used():
            ticks = check_count("ticks", ticks, 0, 1 << 20)
            picture, _ = self._moved("rewind", {"ticks": ticks})
            if self._berth.journal is not None:
                self._berth.journal.rewind(ticks)
                self._keep_exact(self._berth.journal)
            return picture

    def fork(self, n: int = 1) -> list[RemoteSession]:
        """`n` sessions at the same server that go on from here, each on its own. Close them. Nobody looks on."""
        with self._used():
            n = check_count("n", n, 1, _MOST_FORKS)
            sids = self._berth.ask("fork", {"n": n, "key": secrets.randbits(64)}, read=_read_sids)
            return [self._branch(sid) for sid in sids]

    def close(self) -> None:
        """End the session at the server too. Idempotent. Waits for a call in another thread to return."""
        with self._entered:
            if not self._closed:
                self._closed = True
                self._berth.leave()

    def __enter__(self) -> RemoteSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _branch(self, sid: int) -> RemoteSession:
        own = self._berth
        assert own.place is not None
        options = {name: value for name, value in own.options.items() if name != "publish"}
        berth = Berth(own.control, own.spec, options, own.journal and own.journal.copy(), prompt=own.prompt)
        berth.tick, berth.controller = own.tick, own.controller
        berth.take(Place(own.place.epoch, sid, own.place.lease_s))
        return RemoteSession(berth, self._heartbeat, self._seed, self._controller, self._on_miss, self._prompt)

    def _keep_exact(self, journal: Journal) -> None:
        """After a call that waits for the tick under way, a snapshot says what that came to."""
        if not journal.is_exact:
            self._berth.checkpoint()

    def _moved(self, type: str, fields: dict[str, Any], *buffers: Buffer) -> tuple[np.ndarray, str | None]:
        """The picture in the reply of a request that takes the session elsewhere, and the name of the prompt there."""

        def read(reply: Message) -> tuple[int, int, np.ndarray, str | None]:
            told = reply.fields
            picture, name = self._berth.frames.take(reply), optional(text, told, "prompt")
            return uint64(told, "tick"), uint64(told, "seed"), picture, name

        self._berth.tick, self._seed, picture, name = self._berth.ask(type, fields, buffers, read)
        return picture, name

    def _read_tick(self, reply: Message) -> Tick:
        return tick_of(reply.fields, self._berth.frames.take_tick(reply))

    @contextmanager
    def _used(self) -> Iterator[None]:
        """Hold the session for one call."""
        if not self._entered.acquire(blocking=False):
            raise SessionError("the session is in use by another thread")
        try:
            if self._closed:
                raise SessionError("the session is closed")
            yield
        finally:
            self._entered.release()


def _read_snapshot(reply: Message) -> bytes:
    return binary({"snapshot": snapshot_of(reply)}, "snapshot")


def _read_sids(reply: Message) -> list[int]:
    return [uint64({"sids": sid}, "sids") for sid in array(reply.fields, "sids")]
