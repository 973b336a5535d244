"""Steps, punctuality and quality of a tick over its budget.

    python -m tests.bench.bench_sweep [--world W] [--ticks 400] [--budgets 5 6 8 ...] [--policies gain fixed]
        [--on-miss best_effort repeat] [--loads 0] [--threads N] [--json FILE]

`gain` is the SDK's default, which stops when the frame is good enough; `fixed` wants every step. Each budget has its
own session, all play the same script, paced at the world's native rate (slower where the budget is longer), and take
turns in blocks; the first ticks of a block are played but not counted.

Quality is the mean absolute difference, in grey levels of 0..255, between the picture that the caller got and the one
that the full schedule draws of the same tick from the same past. That one is drawn by a fork, between two timed ticks.

Prints a table, and as its last line one JSON document with the machine, the commit and the command.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dsa_runtime import Controller, Session, World, load_world
from dsa_runtime.commands.player import ScriptedPlayer
from dsa_runtime.doctor.load import busy_processes
from dsa_runtime.latency import LatencyModel
from dsa_runtime.pacer import Pacer
from dsa_runtime.report.play import distribution
from dsa_runtime.report.table import table
from tests.bench.bench_budget import ROUNDS, WARM_UP_TICKS, Record, edges, record
from tests.bench.provenance import json_line

BUDGETS_MS = (5.0, 6.0, 8.0, 10.0, 12.0, 15.0, 20.0, 25.0, 33.0, 50.0)
POLICIES = ("gain", "fixed")
ON_MISS = ("best_effort", "repeat")


@dataclass
class Lane:
    """One budget on its own session."""

    policy: str
    on_miss: str
    budget_ms: float
    session: Session
    records: list[Record] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    """Grey levels away from the full schedule's picture."""

    def play(self, ticks: int, action: Callable[[int], Any]) -> None:
        spec = self.session.spec
        pacer = Pacer(max(self.budget_ms, spec.frame.period_ms))
        for index in range(-WARM_UP_TICKS, ticks):
            (branch,) = self.session.fork(1)
            branch.latency = LatencyModel()  # what the full schedule costs is not for the session to know
            chosen = action(self.session.tick)
            woke_late_ms = pacer.wait()
            began_ns = time.perf_counter_ns()
            tick = self.session.step(chosen, self.budget_ms)
            total_ms = (time.perf_counter_ns() - began_ns) / 1e6
            with branch:
                full = branch.step(chosen, math.inf, steps=spec.schedule.steps)
            if index >= 0:
                self.records.append(record(tick, began_ns / 1e6, woke_late_ms, total_ms))
                self.errors.append(grey_levels(tick.pixels, full.pixels))


def grey_levels(one: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference of two pictures `uint8[H, W, 3]`."""
    return float(np.abs(one.astype(np.int16) - other).mean())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. `arguments` without the program's name."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.bench_sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--world", default=None, help="package folder, archive or bundled name")
    parser.add_argument("--ticks", type=int, default=400, help="ticks per budget (default: %(default)s)")
    parser.add_argument("--budgets", type=float, nargs="+", default=BUDGETS_MS, metavar="MS")
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=POLICIES)
    parser.add_argument("--on-miss", nargs="+", choices=ON_MISS, default=ON_MISS)
    parser.add_argument("--loads", type=int, nargs="+", default=[0], metavar="N", help="busy processes beside")
    parser.add_argument("--threads", type=int, default=None, help="threads per graph (default: one per core)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the JSON document there as well")
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    tqdm.monitor_interval = 0  # no thread of its own while we measure
    rows: list[dict[str, Any]] = []
    with load_world(options.world, threads=options.threads) as world:
        combinations = list(itertools.product(options.policies, options.on_miss, options.budgets))
        for load in options.loads:
            with busy_processes(load):
                rows += [{"load": load, **summary(lane)} for lane in measure(world, combinations, options)]
    print(text(rows))
    figures = {"ticks": options.ticks, "threads": options.threads, "seed": options.seed, "rows": rows}
    line = json_line("sweep", given, world.spec, **figures)
    if options.json:
        options.json.write_text(line + "\n")
    print(line)
    return 0


def measure(
    world: World, combinations: Sequence[tuple[str, Any, float]], options: argparse.Namespace
) -> list[Lane]:  # fmt: skip
    """Play every combination of policy, `on_miss` and budget, in turns."""
    action = ScriptedPlayer(world.spec.action_space).action
    with ExitStack() as stack:
        lanes = [
            Lane(policy, on_miss, budget_ms, stack.enter_context(
                world.session(options.seed, controller=Controller(policy=policy), on_miss=on_miss)))
            for policy, on_miss, budget_ms in combinations
        ]  # fmt: skip
        bar = stack.enter_context(
            tqdm(total=min(ROUNDS, options.ticks) * len(lanes), unit="block", disable=None, leave=False)
        )
        for start, end in edges(options.ticks):
            for lane in lanes:
                lane.play(end - start, action)
                bar.update()
    return lanes


def summary(lane: Lane) -> dict[str, Any]:
    """The figures of a lane, as plain JSON values."""
    records = lane.records
    drawn = [one.steps for one in records if one.steps]
    return {
        "policy": lane.policy,
        "on_miss": lane.on_miss,
        "budget_ms": lane.budget_ms,
        "ticks": len(records),
        "mean_steps": sum(drawn) / len(drawn) if drawn else None,
        "own_frame_share": len(drawn) / len(records),
        "ok_share": sum(one.status == "ok" for one in records) / len(records),
        "late_by_own_clock": sum(one.total_ms > lane.budget_ms for one in records),
        "total_ms": distribution([one.total_ms for one in records]),
        "grey_levels": distribution(lane.errors),
        "status": dict(Counter(one.status for one in records)),
        "stopped_by": dict(Counter(one.stopped_by for one in records)),
    }


def text(rows: list[dict[str, Any]]) -> str:
    """All rows for reading."""
    header = ("load", "policy", "on miss", "budget ms", "mean steps", "own frame", "ok", "p50 ms", "p99 ms", "max ms",
              "p99 in budget", "grey levels off")  # fmt: skip
    return table(
        header,
        [
            (
                row["load"], row["policy"], row["on_miss"], row["budget_ms"], row["mean_steps"],
                f"{row['own_frame_share']:.1%}", f"{row['ok_share']:.1%}", row["total_ms"]["p50"],
                row["total_ms"]["p99"], row["total_ms"]["max"],
                "yes" if row["total_ms"]["p99"] <= row["budget_ms"] else "no", row["grey_levels"]["mean"],
            )
            for row in rows
        ],
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
