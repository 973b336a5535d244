"""What it costs to branch off a running world, to keep a state and to go back to it.

    python -m tests.bench.bench_branches [--world W] [--ticks 200] [--branches 64] [--history 8] [--threads N]
        [--json FILE]

After each tick the session is forked, and the branches are closed again. The first fork may enlarge the pool of cached
frames; it is shown apart. So is whether any later one did. Then each branch of a last fork takes one tick. Snapshot,
restore and rewind follow, one each per tick.

Prints a table, and as its last line one JSON document with the machine, the commit and the command.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from dsa_runtime import Session, World, load_world
from dsa_runtime.commands.player import ScriptedPlayer
from dsa_runtime.report.play import distribution
from dsa_runtime.report.table import table
from tests.bench.provenance import json_line

T = TypeVar("T")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. `arguments` without the program's name."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.bench_branches",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--world", default=None, help="package folder, archive or bundled name")
    parser.add_argument("--ticks", type=int, default=200, help="repeats of everything (default: %(default)s)")
    parser.add_argument("--branches", type=int, default=64)
    parser.add_argument("--history", type=int, default=8, help="ticks that can be undone (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=None, help="threads per graph (default: one per core)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the JSON document there as well")
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    with load_world(options.world, threads=options.threads) as world:
        forks = measure_forks(world, options)
        states = measure_states(world, options)
    times = {**forks.pop("times_ms"), **states.pop("times_ms")}
    print(table(("", "first ms", "p50 ms", "p99 ms", "max ms"), [
        (name, one["first"], *(one[key] for key in ("p50", "p99", "max"))) for name, one in times.items()
    ]))  # fmt: skip
    print("\n" + "\n".join(f"{name.replace('_', ' ')}: {value}" for name, value in {**forks, **states}.items()))
    figures = {"ticks": options.ticks, "branches": options.branches, "history": options.history,
               "threads": options.threads, "times_ms": times, **forks, **states}  # fmt: skip
    line = json_line("branches", given, world.spec, **figures)
    if options.json:
        options.json.write_text(line + "\n")
    print(line)
    return 0


def measure_forks(world: World, options: argparse.Namespace) -> dict[str, Any]:
    """Fork after each tick; at the end let each branch take a tick."""
    cache, action = world._cache, ScriptedPlayer(world.spec.action_space).action
    fork_ms: list[float] = []
    used: list[tuple[int, int]] = []
    pools = [cache.pools]
    with world.session(options.seed) as session:
        for _ in range(options.ticks):
            session.step(action(session.tick), math.inf)
            settle(session)  # the commit is not the fork's cost
            before = cache.used
            branches = timed(fork_ms, lambda: session.fork(options.branches))
            used.append((before, cache.used))
            if cache.pools is not pools[-1]:
                pools.append(cache.pools)
            close(branches)
        branches = session.fork(options.branches)
        step_ms: list[float] = []
        for branch in branches:
            timed(step_ms, lambda branch=branch: branch.step(action(branch.tick), math.inf))
        for branch in branches:
            settle(branch)
        used_after_step = cache.used
        close(branches)
    return {
        "times_ms": {f"fork({options.branches})": spread(fork_ms), "a branch's first tick": spread(step_ms)},
        "slots_before_and_after_a_fork": list(used[-1]),
        "slots_that_forks_filled": sum(after - before for before, after in used),
        "slots_after_each_branch_took_a_tick": used_after_step,
        "times_the_pool_was_enlarged": len(pools) - 1,
    }


def measure_states(world: World, options: argparse.Namespace) -> dict[str, Any]:
    """Snapshot and restore, and rewind, after each tick."""
    action = ScriptedPlayer(world.spec.action_space).action
    times: dict[str, list[float]] = {"snapshot": [], "restore": [], "rewind(1)": [], f"rewind({options.history})": []}
    size = 0
    with world.session(options.seed) as session:
        for _ in range(options.ticks):
            session.step(action(session.tick), math.inf)
            settle(session)
            data = timed(times["snapshot"], session.snapshot)
            size = max(size, len(data))
            timed(times["restore"], lambda data=data: session.restore(data))
    with world.session(options.seed, history=options.history) as session:
        for ticks in (1, options.history):
            for _ in range(options.ticks):
                for _ in range(ticks):
                    session.step(action(session.tick), math.inf, steps=1)
                settle(session)
                timed(times[f"rewind({ticks})"], lambda ticks=ticks: session.rewind(ticks))
    return {"times_ms": {name: spread(values) for name, values in times.items()}, "snapshot_bytes": size}


def timed(times_ms: list[float], call: Callable[[], T]) -> T:
    began_ns = time.perf_counter_ns()
    result = call()
    times_ms.append((time.perf_counter_ns() - began_ns) / 1e6)
    return result


def spread(values: Sequence[float]) -> dict[str, float]:
    """The first value, and the distribution of the others (of it, where it is the only one)."""
    return {"first": values[0], **distribution(values[1:] or values)}


def settle(session: Session) -> None:
    """Wait until the newest frame is committed."""
    session.fork(1)[0].close()


def close(sessions: Sequence[Session]) -> None:
    for session in sessions:
        session.close()


if __name__ == "__main__":
    sys.exit(main())
