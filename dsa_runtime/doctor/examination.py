"""Examination: the measurement that makes a `Diagnosis`."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..actions import ActionSpace, Box, Discrete
from ..engine import available_cores
from . import timers
from .advice import advise
from .diagnosis import Diagnosis, Lateness, Spread, StageCost, WorldId
from .host import OtherLoad, describe_host, scheduling
from .load import busy_processes
from .verdicts import TickCost, choose_threads, guard_ms, judge, rates

if TYPE_CHECKING:
    from ..session import Session
    from ..world import World

REST_MS = 10.0
"""Pause after each tick. A program that plays has one too, and a tick from cold caches and sleeping cores costs
more than one of a row."""
_COMPARED_TICKS = 100
_ROUND_TICKS = 20
_WARM_UP_TICKS = 3
_LOADED_SHARE = 0.25

Progress = Callable[[str, int, int], None]
"""Called with what is being done, units done and units in all."""


def examine(
    world: World,
    *,
    ticks: int = 1000,
    waits: int = 240,
    load: bool = True,
    machine: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Diagnosis:
    """Measure `world` on this machine, first alone, then beside as many busy processes as there are cores.

    ticks     full ticks on the idle machine with the best number of threads; a quarter of them beside load.
              Other numbers of threads (one, all cores, all but one) get up to 100 each, in turn
    waits     timed waits of each kind, at 60 a second
    load      False leaves out the measurement beside load
    machine   further facts to keep in the diagnosis

    With the bundled world on two cores this takes about a minute. Run it as the program will be run: same
    cores, same scheduling class, same container. The busy processes are gone when it returns or raises.
    """
    facts = {**(machine or {}), **describe_host()}
    cores = available_cores()
    counts = sorted({1, max(cores - 1, 1), cores})
    with ExitStack() as stack:
        lanes = [_Lane(count, stack.enter_context(world.session(threads=count))) for count in counts]
        run = _Run(world, lanes, progress or (lambda doing, done, total: None))
        run.total = sum(_units(lanes, n, waits) for n in ((ticks, _fewer(ticks)) if load else (ticks,)))
        other = OtherLoad()
        lateness = run.wait(waits, loaded=False)
        busy = other.cores()
        if busy is not None:
            facts["busy_cores"] = busy
        best = run.play(ticks, loaded=False)
        costs = best.session.latency.export()
        if load:
            with busy_processes(cores):
                lateness += run.wait(waits, loaded=True)
                run.play(_fewer(ticks), loaded=True, best=best)
        late = next(row.late for row in lateness if row.wait == "lock" and row.scheduling == "own")
        guard = guard_ms(late.p99_ms, world.spec.frame.period_ms)
        stages = [row for lane in lanes for loaded in sorted(lane.costs) for row in lane.stages(loaded)]
        return Diagnosis(
            world=WorldId(world.spec.name, world.spec.version, world.spec.fingerprint, world.form),
            machine=facts,
            threads=best.threads,
            guard_ms=guard,
            rest_ms=REST_MS,
            lateness=tuple(lateness),
            stages=tuple(stages),
            verdicts=tuple(
                judge(best.costs[loaded], rate, guard, loaded)
                for loaded in sorted(best.costs)
                for rate in rates(world.spec.frame.fps / world.spec.frame.frames_per_tick)
            ),
            advice=advise(facts, best.threads, stages, lateness, _collect_ms()),
            costs={stage: tuple(round(cost, 4) for cost in values) for stage, values in costs.items()},
        )


@dataclass
class _Lane:
    """One number of threads on its own session, and what its ticks cost, alone and beside load."""

    threads: int
    session: Session
    costs: dict[bool, list[TickCost]] = field(default_factory=dict)

    def tick(self, loaded: bool) -> Spread:
        """Cost of full ticks."""
        return Spread.of([cost.total(len(cost.denoise)) for cost in self.costs[loaded]])

    def stages(self, loaded: bool) -> list[StageCost]:
        costs = self.costs[loaded]
        steps = len(costs[0].denoise)
        columns = {
            **{f"denoise {step}": [cost.denoise[step - 1] for cost in costs] for step in range(1, steps + 1)},
            "decode": [cost.decode for cost in costs],
            "sdk": [cost.sdk for cost in costs],
            "commit": [cost.commit for cost in costs],
        }
        spreads = {**{stage: Spread.of(values) for stage, values in columns.items()}, "tick": self.tick(loaded)}
        return [StageCost(self.threads, loaded, stage, spread) for stage, spread in spreads.items()]


@dataclass
class _Run:
    """The parts of one examination, and how far it is."""

    world: World
    lanes: Sequence[_Lane]
    progress: Progress
    total: int = 0
    done: int = 0

    def wait(self, waits: int, loaded: bool) -> list[Lateness]:
        """Timed waits in this process and, where that is permitted, under SCHED_FIFO in another one."""
        doing = f"timers {_where(loaded)}"
        measured = {"own": timers.measure(waits, lambda: self._step(doing))}
        fifo = None if scheduling() in ("fifo", "rr") else timers.measure_fifo(waits)
        if fifo is not None:
            measured["fifo"] = fifo
        self._step(doing, waits)
        return [
            Lateness(wait, kind, loaded, Spread.of(late_ms))
            for kind, waits_ms in measured.items()
            for wait, late_ms in waits_ms.items()
        ]

    def play(self, ticks: int, loaded: bool, best: _Lane | None = None) -> _Lane:
        """Play all lanes in turn, so that a machine that drifts does so for all; then the best one on alone."""
        compared = min(ticks, _COMPARED_TICKS)
        for start in range(0, compared, _ROUND_TICKS):
            for lane in self.lanes:
                self._round(lane, min(_ROUND_TICKS, compared - start), loaded)
        if best is None:
            totals = {
                lane.threads: [cost.total(len(cost.denoise)) for cost in lane.costs[loaded]] for lane in self.lanes
            }
            chosen = choose_threads({count: Spread.of(values).p90_ms for count, values in totals.items()})
            best = next(lane for lane in self.lanes if lane.threads == chosen)
        for start in range(compared, ticks, 5 * _ROUND_TICKS):
            self._round(best, min(5 * _ROUND_TICKS, ticks - start), loaded)
        return best

    def _round(self, lane: _Lane, ticks: int, loaded: bool) -> None:
        """Play some ticks with the full schedule, each followed by a rest."""
        session, spec = lane.session, self.world.spec
        action, costs = _any_action(spec.action_space), lane.costs.setdefault(loaded, [])
        for index in range(_WARM_UP_TICKS + ticks):
            latency = session.step(action, math.inf, steps=spec.schedule.steps).latency_ms
            returned = time.perf_counter()
            for branch in session.fork():  # waits for the commit, and costs next to nothing itself
                branch.close()
            commit_ms = (time.perf_counter() - returned) * 1e3
            if index >= _WARM_UP_TICKS:
                costs.append(TickCost(tuple(latency["denoise"]), latency["decode"], latency["sdk"], commit_ms))
                self._step(f"threads={lane.threads} {_where(loaded)}")
            time.sleep(REST_MS / 1e3)

    def _step(self, doing: str, units: int = 1) -> None:
        self.done += units
        self.progress(doing, self.done, self.total)


def _units(lanes: Sequence[_Lane], ticks: int, waits: int) -> int:
    return 2 * waits + ticks + (len(lanes) - 1) * min(ticks, _COMPARED_TICKS)


def _fewer(ticks: int) -> int:
    return max(math.ceil(ticks * _LOADED_SHARE), min(ticks, _ROUND_TICKS))


def _where(loaded: bool) -> str:
    return "beside load" if loaded else "idle"


def _any_action(space: ActionSpace) -> Any:
    """Some action; what a tick costs does not depend on it."""
    if isinstance(space, Discrete):
        return 0
    return np.array(space.low, np.float32) if isinstance(space, Box) else np.zeros(space.n, np.uint8)


def _collect_ms() -> float:
    """What a full garbage collection takes in this process."""
    started = time.perf_counter()
    gc.collect()
    return (time.perf_counter() - started) * 1e3
