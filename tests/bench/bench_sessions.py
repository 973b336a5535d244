"""How many sessions a machine plays without misses: batched in one process, beside one process for each.

    python -m tests.bench.bench_sessions [--world W] [--hz 10 30] [--steps 2] [--seconds 6] [--misses 0.01]
        [--repeats 2] [--json FILE]

Every session is paced: its ticks are due at a fixed rate, from a random phase on, and take exactly `--steps` denoising
steps, so that both ways do the same work. A tick that returns after the next one is due is a miss; pacing then goes on
from there, without catching up. The capacity is the largest number of sessions whose share of misses stays within
`--misses`, found by doubling and halving, the two ways in turns. Processes use one thread per graph each, for more
would only get in each other's way.

Prints a table, and as its last line one JSON document with the machine, the commit and the command.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dsa_runtime import Session, load_world
from dsa_runtime.report.table import table
from tests.bench.provenance import json_line

WAYS = ("batched", "processes")


@dataclass(frozen=True)
class Load:
    """What every session is asked for."""

    hz: float
    steps: int
    seconds: float

    @property
    def ticks(self) -> int:
        return max(round(self.hz * self.seconds), 1)


@dataclass(frozen=True)
class Trial:
    """What became of a number of sessions."""

    sessions: int
    misses: float
    """Share of the ticks that returned after the next one was due."""
    p50_ms: float
    p99_ms: float
    """From when a tick was due until its frame was there."""


def play(session: Session, load: Load, start_s: float, index: int) -> list[float]:
    """Paced ticks from `start_s` (time.monotonic) on; returns how long after it was due each was there, in ms."""
    rng, period_s = np.random.default_rng(index), 1 / load.hz
    choices = getattr(session.spec.action_space, "n", None)
    due_s = start_s + float(rng.random()) * period_s
    took_ms = []
    for _ in range(load.ticks):
        time.sleep(max(due_s - time.monotonic(), 0))
        action = int(rng.integers(choices)) if choices else np.zeros(session.spec.action_space.width, np.float32)
        session.step(action, math.inf, steps=load.steps)
        now_s = time.monotonic()
        took_ms.append((now_s - due_s) * 1e3)
        due_s += period_s
        if now_s > due_s:
            due_s = now_s
    return took_ms


def batched(world_name: str | None, count: int, load: Load) -> list[float]:
    """All sessions in this process, a thread each."""
    results: list[list[float]] = [[] for _ in range(count)]
    with load_world(world_name) as world:
        sessions = [world.session(index, batched=True) for index in range(count)]
        start_s = time.monotonic() + 0.3

        def run(index: int) -> None:
            results[index] = play(sessions[index], load, start_s, index)

        threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for session in sessions:
            session.close()
    return [value for one in results for value in one]


def processes(world_name: str | None, count: int, load: Load) -> list[float]:
    """A process for each session."""
    command = [sys.executable, "-m", "tests.bench.bench_sessions", "--hz", str(load.hz), "--steps", str(load.steps)]
    command += ["--seconds", str(load.seconds), *(["--world", world_name] if world_name else [])]
    started = [
        subprocess.Popen([*command, "--worker", str(index)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for index in range(count)
    ]
    took_ms: list[float] = []
    try:
        for one in started:
            assert one.stdout is not None and one.stdout.readline() == "ready\n"
        start_s = time.monotonic() + 0.5
        for one in started:
            assert one.stdin is not None
            one.stdin.write(f"{start_s!r}\n")
            one.stdin.flush()
        for one in started:
            assert one.stdout is not None
            took_ms += json.loads(one.stdout.readline())
    finally:
        for one in started:
            one.terminate()
            one.communicate()
    return took_ms


def work(world_name: str | None, index: int, load: Load) -> None:
    """The process of one session."""
    with load_world(world_name, threads=1) as world, world.session(index) as session:
        print("ready", flush=True)
        start_s = float(sys.stdin.readline())
        print(json.dumps(play(session, load, start_s, index)), flush=True)


def trial(run: Callable[[str | None, int, Load], list[float]], world: str | None, load: Load, count: int) -> Trial:
    """Measure one number of sessions."""
    took = np.array(run(world, count, load))
    p50, p99 = np.percentile(took, (50, 99))
    return Trial(count, float((took > 1e3 / load.hz).mean()), float(p50), float(p99))


def capacity(tries: Callable[[int], Trial], allowed: float) -> tuple[int, list[Trial]]:
    """The largest number of sessions within the allowed misses, and all that was tried."""
    seen: list[Trial] = []

    def good(count: int) -> bool:
        seen.append(tries(count))
        return seen[-1].misses <= allowed

    low, high = 0, 1
    while good(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if good(middle) else (low, middle)
    return low, sorted(seen, key=lambda one: one.sessions)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. `arguments` without the program's name."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.bench_sessions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--world", default=None, help="package folder, archive or bundled name")
    parser.add_argument("--hz", type=float, nargs="+", default=[10.0, 30.0])
    parser.add_argument("--steps", type=int, default=2, help="denoising steps of every tick (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=6.0, help="of a trial (default: %(default)s)")
    parser.add_argument("--misses", type=float, default=0.01, help="share that is allowed (default: %(default)s)")
    parser.add_argument(
        "--repeats", type=int, default=2, help="of each search; the median counts (default: %(default)s)"
    )
    parser.add_argument("--worker", type=int, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the JSON document there as well")
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    if options.worker is not None:
        work(options.world, options.worker, Load(options.hz[0], options.steps, options.seconds))
        return 0
    runs = {"batched": batched, "processes": processes}
    found: list[dict[str, Any]] = []
    for hz in options.hz:
        load = Load(hz, options.steps, options.seconds)
        most: dict[str, list[int]] = {way: [] for way in WAYS}
        trials: dict[str, list[Trial]] = {way: [] for way in WAYS}
        for _ in range(options.repeats):
            for way in WAYS:
                count, seen = capacity(partial(trial, runs[way], options.world, load), options.misses)
                most[way].append(count)
                trials[way] += seen
        sessions = {way: float(np.median(most[way])) for way in WAYS}
        ratio = sessions["batched"] / sessions["processes"] if sessions["processes"] else math.nan
        found.append({
            "hz": hz, "sessions": sessions, "searches": most, "ratio": ratio if math.isfinite(ratio) else None,
            "trials": {way: [vars(one) for one in trials[way]] for way in WAYS},
        })  # fmt: skip
    print(table(("rate", *(f"{way}: sessions" for way in WAYS), "ratio"), [
        (f"{one['hz']:g} Hz", *(f"{one['sessions'][way]:g}" for way in WAYS), one["ratio"] or "-") for one in found
    ]))  # fmt: skip
    with load_world(options.world) as world:
        line = json_line("sessions", given, world.spec, steps=options.steps, misses=options.misses, rates=found)
    if options.json:
        options.json.write_text(line + "\n")
    print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
