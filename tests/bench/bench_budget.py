"""Deadline misses and mean steps of each rule for admitting a denoising step, paced, idle and beside other load.

    python -m tests.bench.bench_budget [--world W] [--ticks 3000] [--rates 30 60] [--loads 0 2]
        [--policies fixed mean q99 ours] [--quantiles Q ...] [--threads N]
        [--scheduling normal fifo] [--json FILE]

At every rate the budget of a tick is its period. Confidence is kept out of it: all rules want every step of the
schedule, so that the time alone decides.

    fixed k   always k steps
    mean      a further step if the mean cost of recent steps fits
    q99       ... if their 0.99 quantile fits
    ours      the SDK's defaults: a step that is more likely than not to fit, abandoned if it turns out not to

Each rule has its own session. They take turns in blocks, so that a machine that gets busier does so for all; the first
ticks of a block are played but not counted. A miss is a tick that did not return in time, by its `status` or by the
caller's own clock. How late the loop woke up is the operating system's and shown apart.

The oracle has our session's own measured costs and knows each tick's in advance, so it needs no margin: the most steps
with wait + steps + decode + sdk <= budget, at least one. A step that was not taken costs it the mean of those that
were. Its longer ticks delay nobody (`wait` is as recorded), which makes it harder to match: at a rate that leaves no
time to commit, no rule could do what it does. So there is a second one, the sustained oracle, which waits for its own
commits. Intervals are Wilson's at 95 % and take ticks as independent; under load misses come in clumps, and the true
ones are wider.

Prints a table per rate and load, and as its last line one JSON document with the machine, the commit and the command.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dsa_runtime import Controller, Session, Tick, World, load_world
from dsa_runtime.commands.player import ScriptedPlayer
from dsa_runtime.doctor.load import busy_processes
from dsa_runtime.latency import LatencyModel
from dsa_runtime.pacer import Pacer
from dsa_runtime.report.play import distribution
from dsa_runtime.report.table import table
from dsa_runtime.tick import LatencyMs
from tests.bench.provenance import json_line

POLICIES = ("fixed", "mean", "q99", "ours")
ROUNDS = 10
WARM_UP_TICKS = 5
FIFO_PRIORITY = 50


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept of a tick: everything but its picture."""

    began_ms: float
    """When the caller called, on the clock of `time.perf_counter_ns`."""
    woke_late_ms: float
    total_ms: float
    """By the caller's own clock."""
    status: str
    stopped_by: str
    steps: int
    latency_ms: LatencyMs


@dataclass
class Lane:
    """One rule on its own session, and what became of its ticks."""

    name: str
    session: Session
    steps: int | None = None
    """Denoising steps of every tick; None for the controller's choice."""
    records: list[Record] = field(default_factory=list)

    def play(self, ticks: int, budget_ms: float, period_ms: float | None, action: Callable[[int], Any]) -> None:
        """One block: `WARM_UP_TICKS` that do not count and `ticks` that do. `period_ms` None: back to back."""
        pacer = None if period_ms is None else Pacer(period_ms)
        for index in range(-WARM_UP_TICKS, ticks):
            chosen = action(self.session.tick)
            woke_late_ms = pacer.wait() if pacer else 0.0
            began_ns = time.perf_counter_ns()
            tick = self.session.step(chosen, budget_ms, steps=self.steps)
            total_ms = (time.perf_counter_ns() - began_ns) / 1e6
            if index >= 0:
                self.records.append(record(tick, began_ns / 1e6, woke_late_ms, total_ms))


def record(tick: Tick, began_ms: float, woke_late_ms: float, total_ms: float) -> Record:
    return Record(began_ms, woke_late_ms, total_ms, tick.status, tick.stopped_by, tick.steps, tick.latency_ms)


class MeanCost(LatencyModel):
    """Answers with the mean of the window whatever quantile is asked for."""

    def quantile(self, stage: str, q: float, step: int = 0) -> float | None:
        costs = self.export().get(stage)
        return sum(costs) / len(costs) if costs else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. `arguments` without the program's name."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.bench_budget",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--world", default=None, help="package folder, archive or bundled name")
    parser.add_argument("--ticks", type=int, default=3000, help="ticks per rule, rate and load (default: %(default)s)")
    parser.add_argument("--rates", type=float, nargs="+", default=[30.0, 60.0], metavar="HZ")
    parser.add_argument("--loads", type=int, nargs="+", default=[0, 2], metavar="N", help="busy processes beside")
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=POLICIES)
    parser.add_argument(
        "--quantiles",
        type=float,
        nargs="*",
        default=[],
        metavar="Q",
        help="also ours, but admitting a step at these quantiles",
    )
    parser.add_argument("--threads", type=int, default=None, help="threads per graph (default: one per core)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--scheduling",
        nargs="+",
        choices=("normal", "fifo"),
        default=["normal"],
        help="scheduling classes, one after the other; fifo is the real-time class SCHED_FIFO",
    )
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the JSON document there as well")
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    tqdm.monitor_interval = 0  # no thread of its own while we measure
    cells = list(itertools.product(options.loads, options.rates))
    sets: list[dict[str, Any]] = []
    with tqdm(total=len(options.scheduling) * len(cells) * ROUNDS, unit="round", disable=None, leave=False) as bar:
        for scheduling in options.scheduling:
            with scheduled(scheduling) as permitted:
                if not permitted:
                    print("SCHED_FIFO is not permitted here and was left out\n")
                    continue
                # Threads inherit the class of the one that starts them, so the world's have to be started in it.
                with load_world(options.world, threads=options.threads) as world:
                    spec = world.spec
                    for load, rate in cells:
                        bar.set_description(f"{scheduling}, load {load}, {rate:g} Hz")
                        with busy_processes(load):
                            lanes = measure(world, rate, options, bar.update)
                        budget_ms = 1000 / rate
                        rows = [summary(lane, budget_ms, spec.schedule.steps) for lane in lanes]
                        sets.append({"scheduling": scheduling, "load": load, "rate_hz": rate, "budget_ms": budget_ms,
                                     "policies": rows})  # fmt: skip
                        bar.clear()
                        print(text(sets[-1]), end="\n\n", flush=True)
    figures = {"ticks": options.ticks, "threads": options.threads, "seed": options.seed, "sets": sets}
    line = json_line("budget", given, spec, **figures)
    if options.json:
        options.json.write_text(line + "\n")
    print(line)
    return 0


def measure(
    world: World, rate: float, options: argparse.Namespace, advance: Callable[[int], object]
) -> list[Lane]:  # fmt: skip
    """Play all lanes at one rate in turns. `advance(1)` is called after each round."""
    action = ScriptedPlayer(world.spec.action_space).action
    period_ms = 1000 / rate
    with ExitStack() as stack:

        def session(**rule: Any) -> Session:
            controller = Controller(policy="fixed", **rule)
            return stack.enter_context(world.session(options.seed, controller=controller))

        lanes = [lane for policy in options.policies for lane in open_lanes(policy, world.spec.schedule.steps, session)]
        lanes += [Lane(f"ours, q {q:g}", session(step_quantile=q)) for q in options.quantiles]
        for start, end in edges(options.ticks):
            for lane in lanes:
                lane.play(end - start, period_ms, period_ms, action)
            advance(1)
    return lanes


def open_lanes(policy: str, schedule_steps: int, session: Callable[..., Session]) -> Iterator[Lane]:
    if policy == "fixed":
        for steps in range(1, schedule_steps + 1):
            yield Lane(f"fixed {steps}", session(), steps)
    elif policy == "mean":
        lane = Lane("mean", session(rescue=False))
        mean = MeanCost()
        mean.prime(lane.session.latency.export())
        lane.session.latency = mean
        yield lane
    elif policy == "q99":
        yield Lane("q99", session(rescue=False, quantile=0.99))
    else:
        yield Lane("ours", session())


def edges(ticks: int) -> list[tuple[int, int]]:
    """Where the blocks of up to `ROUNDS` rounds begin and end."""
    rounds = min(ROUNDS, ticks)
    return list(itertools.pairwise(ticks * index // rounds for index in range(rounds + 1)))


def summary(lane: Lane, budget_ms: float, schedule_steps: int) -> dict[str, Any]:
    """The figures of a lane, as plain JSON values."""
    records = lane.records
    count = len(records)
    late = sum(one.total_ms > budget_ms for one in records)
    misses = sum(one.status != "ok" or one.total_ms > budget_ms for one in records)
    mean_steps = sum(one.steps for one in records) / count
    figures = {
        "policy": lane.name,
        "ticks": count,
        "misses": misses,
        "miss_share": misses / count,
        "miss_interval": wilson(misses, count),
        "late_by_own_clock": late,
        "worst_overrun_ms": max(one.total_ms for one in records) - budget_ms,
        "mean_steps": mean_steps,
        "total_ms": distribution([one.total_ms for one in records]),
        "sdk_ms": distribution([one.latency_ms["sdk"] for one in records]),
        "wait_ms": distribution([one.latency_ms["wait"] for one in records]),
        "woke_late_ms": distribution([one.woke_late_ms for one in records]),
        "status": dict(Counter(one.status for one in records)),
        "stopped_by": dict(Counter(one.stopped_by for one in records)),
        "steps": {str(steps): taken for steps, taken in sorted(Counter(one.steps for one in records).items())},
    }
    if lane.name.startswith("ours"):
        commit = lane.session.latency.summary().get("commit")
        best = [oracle_steps(one.latency_ms, budget_ms, schedule_steps) for one in records]
        sustained = sustained_steps(records, commit.p50_ms if commit else 0.0, budget_ms, schedule_steps)
        for name, steps in (("oracle", best), ("sustained_oracle", sustained)):
            figures[f"{name}_steps"] = sum(steps) / count
            figures[f"of_{name}"] = mean_steps / figures[f"{name}_steps"]
        figures["hopeless"] = sum(not fits(one.latency_ms, budget_ms) for one in records)
    return figures


def oracle_steps(cost: LatencyMs, budget_ms: float, schedule_steps: int) -> int:
    """The most steps of this tick that would have fitted its budget, had all costs been known; at least 1.

    A step that was not finished costs the mean of those that were.
    """
    elapsed = cost["wait"] + cost["decode"] + cost["sdk"]
    return most_steps(elapsed, step_costs(cost, schedule_steps), budget_ms)


def sustained_steps(
    records: Sequence[Record], commit_ms: float, budget_ms: float, schedule_steps: int
) -> list[int]:  # fmt: skip
    """As `oracle_steps` of each tick, but a tick waits for the commit of the oracle's previous one."""
    chosen, free_ms = [], -math.inf
    for one in records:
        cost = one.latency_ms
        wait_ms = max(free_ms - one.began_ms, 0.0)
        others_ms = wait_ms + cost["decode"] + cost["sdk"]
        steps_ms = step_costs(cost, schedule_steps)
        chosen.append(most_steps(others_ms, steps_ms, budget_ms))
        free_ms = one.began_ms + others_ms + sum(steps_ms[: chosen[-1]]) + commit_ms
    return chosen


def step_costs(cost: LatencyMs, schedule_steps: int) -> list[float]:
    """What each step of the schedule has cost in this tick, or would have."""
    taken = cost["denoise"]
    return [*taken, *[sum(taken) / len(taken)] * (schedule_steps - len(taken))]


def most_steps(elapsed_ms: float, steps_ms: Sequence[float], budget_ms: float) -> int:
    """How many of the steps fit; at least 1."""
    ends = itertools.accumulate(steps_ms, initial=elapsed_ms)
    return max(sum(end <= budget_ms for end in itertools.islice(ends, 1, None)), 1)


def fits(cost: LatencyMs, budget_ms: float) -> bool:
    """Whether one step would have fitted. Where it would not, no rule for admitting further ones can help."""
    return cost["wait"] + cost["denoise"][0] + cost["decode"] + cost["sdk"] <= budget_ms


def wilson(hits: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval for a share."""
    share, spread = hits / trials, z * z / trials
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    return max(centre - half, 0.0), min(centre + half, 1.0)


@contextmanager
def scheduled(name: str) -> Iterator[bool]:
    """Run this thread, and those started from now on, in a scheduling class. Yields False if that is forbidden."""
    if name == "normal":
        yield True
        return
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(FIFO_PRIORITY))
    except (AttributeError, OSError):
        yield False
        return
    try:
        yield True
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def text(cell: dict[str, Any]) -> str:
    """One rate and load for reading."""
    header = ("rule", "mean steps", "misses", "%", "95 %", "worst overrun ms", "p50 ms", "p99 ms", "sdk p50", "sdk p99",
              "abandoned", "woke late p99")  # fmt: skip
    rows = []
    for row in cell["policies"]:
        low, high = row["miss_interval"]
        rows.append(
            (
                row["policy"], row["mean_steps"], row["misses"], f"{row['miss_share']:.2%}", f"{low:.2%}..{high:.2%}",
                row["worst_overrun_ms"], row["total_ms"]["p50"], row["total_ms"]["p99"], row["sdk_ms"]["p50"],
                row["sdk_ms"]["p99"], row["stopped_by"].get("deadline", 0), row["woke_late_ms"]["p99"],
            )
        )  # fmt: skip
    beside = f"beside {cell['load']} busy processes" if cell["load"] else "idle"
    lines = [f"{cell['rate_hz']:g} Hz ({cell['budget_ms']:.1f} ms), {beside}, {cell['scheduling']} scheduling",
             table(header, rows)]  # fmt: skip
    for row in cell["policies"]:
        if "oracle_steps" in row:
            lines.append(
                f"{row['policy']}: {row['of_oracle']:.1%} of the oracle's {row['oracle_steps']:.3f} steps, "
                f"{row['of_sustained_oracle']:.1%} of the sustained oracle's {row['sustained_oracle_steps']:.3f}; "
                f"in {row['hopeless']} ticks not even one step fitted"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
