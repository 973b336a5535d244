"""Admission: whether one more session would still be served in time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from time import perf_counter_ns

from ..spec import WorldSpec
from ..tick import Tick
from .config import ServerConfig
from .wire import WireError

_WINDOW = 256
_LEAST = 16  # the first ticks of a world say little: pages not touched, caches cold
_MOST_PERIODS = 4.0  # that a tick counts as: a machine that froze once shall not be full for the next 256 ticks
_MS_PER_NS = 1e-6


class Admission:
    """Estimates a server's load and refuses sessions beyond it. One thread at a time.

    The load is the sum over sessions of their world's native rate times the mean time that its ticks keep the machine
    from making others. Ticks made at the same time, in a batch or on other cores, share that time among them: whichever
    ends later counts only what it took beyond the one before. So company makes ticks cheaper as it comes. Sessions of a
    world that has hardly been played count as nothing. A session without room is refused, rather than all slowed down.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._most_sessions, self._most = config.max_sessions, config.load_most
        self._costs: dict[str, deque[float]] = {}
        self._busy_until_ms = 0.0

    def observe(self, world: WorldSpec, tick: Tick, commit_ms: float, ended_ms: float | None = None) -> None:
        """Enter a tick that has just ended.

        commit_ms   what its commit is expected to take
        ended_ms    on a clock of the caller's; None for now
        """
        latency = tick.latency_ms
        if not latency["denoise"]:  # nothing was run for it
            return
        ended_ms = perf_counter_ns() * _MS_PER_NS if ended_ms is None else ended_ms
        made_ms = sum(latency["denoise"]) + latency["abandoned"] + latency["decode"]
        until_ms = ended_ms + commit_ms
        took_ms = max(until_ms - max(ended_ms - made_ms, self._busy_until_ms), 0.0)
        self._busy_until_ms = max(self._busy_until_ms, until_ms)
        costs = self._costs.setdefault(world.fingerprint, deque(maxlen=_WINDOW))
        costs.append(min(took_ms, _MOST_PERIODS * world.frame.period_ms))

    def load(self, worlds: Iterable[WorldSpec]) -> float:
        """Estimated share of the time that sessions of these worlds use, one per session."""
        return sum(self._cost_ms(world) / world.frame.period_ms for world in worlds)

    def check(self, worlds: list[WorldSpec], more: WorldSpec, count: int = 1) -> None:
        """Raise `WireError` (capacity, busy) unless `count` more sessions of a world fit beside those of `worlds`."""
        after = len(worlds) + count
        if after > self._most_sessions:
            raise WireError("capacity", f"{len(worlds)} sessions are open, and {self._most_sessions} is the most")
        wanted = self.load([*worlds, *[more] * count])
        if wanted > self._most:
            raise WireError(
                "busy",
                f"no time is left: {after} sessions would use an estimated {wanted:.0%} of it, and {self._most:.0%} is"
                f" the most (a tick of {more.name} takes {self._cost_ms(more):.1f} ms of every"
                f" {more.frame.period_ms:.1f} ms)",
            )

    def _cost_ms(self, world: WorldSpec) -> float:
        costs = self._costs.get(world.fingerprint, ())
        return sum(costs) / len(costs) if len(costs) >= _LEAST else 0.0
