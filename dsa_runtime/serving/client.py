"""Connection: worlds that another process serves, on this machine or another."""

from __future__ import annotations

import dataclasses
import os
import weakref
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .. import strict_json
from ..arguments import check_count, check_seed
from ..controller import Controller
from ..errors import ServerError, ServingError, SessionError
from ..spec import WorldSpec
from .berth import Berth
from .control import Control, WorldEntry
from .heartbeat import Heartbeat
from .journal import Journal
from .link import ClientKeys, Link
from .remote_session import RemoteSession
from .spectator import Spectator
from .wire import WireError
from .wire_prompt import checked_prompt

if TYPE_CHECKING:
    from ..watchdog import OnMiss  # which brings the engine along: not for those who only look at it from afar

Frames = Literal["auto", "part", "shm", "jpeg", "png"]
FRAMES = ("auto", "part", "shm", "jpeg", "png")
_MOST_LEASE_MS = 1 << 40
_CHECKPOINT_MS = 10_000.0  # a recovery then takes some seconds at most; a snapshot costs about as much as a tick


def connect(
    address: str,
    *,
    key: str | os.PathLike[str] | None = None,
    server_key: str | os.PathLike[str] | None = None,
    timeout_ms: float = 10_000.0,
    frames: Frames = "auto",
) -> Connection:
    """Connect to a server (`dsa serve`).

    address      `tcp://HOST:PORT` or `ipc://PATH`
    key          for a server with CURVE: name or path of this client's secret key (`dsa keys new`)
    server_key   for a server with CURVE: its public key, as text, or the name or path of a file that holds it
    timeout_ms   after so long a silence the server is gone. One that is merely busy with what was asked is not silent
    frames       how pictures come, unless a session says otherwise: `part` as raw bytes, `shm` in shared memory,
                 `jpeg` or `png` for slow links; `auto` takes shared memory on the same machine and raw bytes elsewhere

    Raises `ServerGoneError` if nobody answers, which is also what a server with CURVE does to those whose keys are
    wrong or not on its list; `ServingError` for an address or a key that is none.
    """
    if (key is None) != (server_key is None):
        missing = "server_key" if server_key is None else "key"
        raise ServingError(f"{missing}: a server with CURVE needs both key and server_key; give it, or leave out both")
    keys = None if key is None or server_key is None else ClientKeys.load(key, server_key)
    return Connection(Link(address, keys, timeout_ms), _check_frames(frames))


class Connection:
    """A server, and what it offers. Made by `connect`; thread-safe. Close it, or use it in a `with` statement."""

    def __init__(self, link: Link, frames: Frames = "auto") -> None:
        """For `connect`."""
        self._link, self._frames = link, frames
        self._control = Control(link)
        self._heartbeat = Heartbeat(link)
        self._specs: dict[str, tuple[str, WorldSpec]] = {}  # by name: fingerprint, spec
        # A connection that is merely dropped must not leave its thread behind.
        self._ended = weakref.finalize(self, _end, self._heartbeat, self._control)

    @property
    def worlds(self) -> tuple[WorldEntry, ...]:
        """The server's worlds; the first is the default."""
        return self._control.welcome.worlds

    @property
    def spec(self) -> WorldSpec:
        """The default world's spec."""
        return self.spec_of(self.worlds[0].name)

    @property
    def publish_address(self) -> str | None:
        """Where the server publishes frames for spectators; None if it does not."""
        return self._control.welcome.publish

    def spec_of(self, world: str) -> WorldSpec:
        """The spec of one of the worlds, by name."""
        for entry in self.worlds:
            if entry.name == world:
                known = self._specs.get(world)
                if known is None or known[0] != entry.fingerprint:
                    known = self._specs[world] = entry.fingerprint, self._ask_spec(world)
                return known[1]
        raise SessionError(f"world: the server has {', '.join(entry.name for entry in self.worlds)}, got {world!r}")

    def session(
        self,
        seed: int = 0,
        *,
        world: str | None = None,
        threshold: float | None = None,
        max_steps: int | None = None,
        controller: Controller | None = None,
        on_miss: OnMiss = "best_effort",
        history: int = 0,
        frames: Frames | None = None,
        quality: int | None = None,
        publish: bool = False,
        lease_ms: int | None = None,
        recover: bool = False,
        checkpoint_ticks: int | None = None,
        prompt: str | np.ndarray | None = None,
    ) -> RemoteSession:
        """Open a session that starts from `seed`.

        world              name of one of the server's; None for the first
        threshold, max_steps, controller, on_miss, history, prompt
                           as in `World.session`
        frames             as in `connect`; None for the connection's
        quality            of JPEG, 1 (smallest) to 95 (best)
        publish            let spectators see its frames and decisions, see `RemoteSession.topic`
        lease_ms           how long the session outlives this process; None for the server's default
        recover            make the session again, as it was, when the server was restarted or has given it up, and go
                           on: same frames, no tick lost and none twice. What cannot be made again is what was measured:
                           a soft target and time credit begin anew at the newest checkpoint
        checkpoint_ticks   with `recover`: a snapshot is fetched every so many ticks, while the caller is busy with its
                           frame. A recovery repeats the ticks since then. None for ten seconds at the native rate

        Raises `BusyError` if the server has no room for it.
        """
        seed, history = check_seed(seed), check_count("history", history, 0, 1 << 20)
        changes = {"threshold": threshold, "max_steps": max_steps}
        given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
        shown = dataclasses.replace(controller or Controller(), **given)
        spec = self.spec if world is None else self.spec_of(world)
        begins_with = None if prompt is None else checked_prompt(spec, prompt)
        way = self._frames if frames is None else _check_frames(frames)
        options = {
            "world": spec.name,
            "seed": seed,
            "on_miss": on_miss,
            "history": history,
            "frames": self._way(way),
            **({} if controller is None else {"controller": strict_json.encode(controller)}),
            **given,
            **({} if quality is None else {"quality": check_count("quality", quality, 1, 95)}),
            **({} if not publish else {"publish": True}),
            **({} if lease_ms is None else {"lease_ms": check_count("lease_ms", lease_ms, 1, _MOST_LEASE_MS)}),
        }
        journal = None
        if recover:
            default = max(round(_CHECKPOINT_MS / spec.frame.period_ms), 1)
            every = (
                default if checkpoint_ticks is None else check_count("checkpoint_ticks", checkpoint_ticks, 1, 1 << 30)
            )
            journal = Journal(seed, every, history)
        elif checkpoint_ticks is not None:
            raise SessionError(
                "checkpoint_ticks: means something with recover=True only; give that too, or leave it out"
            )
        berth = Berth(self._control, spec, options, journal, any_frames=way == "auto", prompt=begins_with)
        try:
            berth.open()
        except BaseException:
            berth.leave()
            raise
        if begins_with is None and spec.text.prompts:
            begins_with = spec.text.prompts[0]
        return RemoteSession(berth, self._heartbeat, seed, shown, on_miss, begins_with)

    def spectator(self, topic: bytes) -> Spectator:
        """An onlooker of the session with that `RemoteSession.topic`, which may be another process's."""
        if self.publish_address is None:
            raise SessionError("the server does not publish frames; start it with --publish ADDRESS")
        return Spectator(self.publish_address, topic, self._link.keys)

    def stats(self) -> dict[str, Any]:
        """What the server has done since it began: plain numbers, see PROTOCOL.md."""
        return {name: value for name, value in self._control.ask("stats", {}).fields.items() if name != "epoch"}

    def ping(self) -> float:
        """Whether the server is there: the time that takes to find out, in milliseconds."""
        started = perf_counter()
        self._control.ask("ping", {})
        return (perf_counter() - started) * 1000

    def close(self) -> None:
        """End what runs in the background. Idempotent; close the sessions first, or their leases run out."""
        self._ended()

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask_spec(self, world: str) -> WorldSpec:
        reply = self._control.ask("specs", {"world": world})
        try:
            return WorldSpec.from_json(bytes(reply.buffer("spec").data or b""), "specs")
        except WireError as error:
            raise ServerError(f"{self._link.address}: {error}") from None

    def _way(self, frames: Frames) -> str:
        if frames == "auto":
            return "shm" if self._link.is_local and "shm" in self._control.welcome.features else "part"
        if frames != "part" and frames not in self._control.welcome.features:
            raise SessionError(f"frames: the server does not offer {frames!r}; use 'part'")
        return frames


def _end(heartbeat: Heartbeat, control: Control) -> None:
    heartbeat.close()
    control.close()


def _check_frames(frames: Frames) -> Frames:
    if frames not in FRAMES:
        raise SessionError(f"frames: expected one of {', '.join(FRAMES)}, got {frames!r}")
    return frames
