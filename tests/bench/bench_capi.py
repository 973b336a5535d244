"""From C: what a call costs on top of the SDK, start-up, how steady a paced loop is, allocations and memory.

    python -m tests.bench.bench_capi [--world W | --tiny] [--parts start calls paced] [--libraries runtime client]
        [--calls 300] [--ticks 1200] [--rate 60] [--loads 0 2] [--scheduling normal fifo] [--starts 5]
        [--memory-steps 50000] [--memory-sessions 2000] [--threads 1] [--json FILE]

* start: opening runtime, world and session, preparing it, the first step; the median of some processes.
* calls: `overhead` is the function, from call to return, minus what the SDK says the tick took. `Session.step` in
  Python has some too, before its clock starts and after it stops; `over Python` is the difference of the quantiles.
  Back to back, and 20 ms apart, when the frame before has been committed. Of libdsa_client it is the way to the server
  and back. Python and the libraries take turns of 50 calls.
* paced: a loop in C that sleeps until the next period, then steps with a budget of one period, beside one that only
  sleeps. `woke`: from the set time until the loop is awake; `ready`: until it has the frame. The native loop and both
  libraries take turns of a second.
* memory (only if asked for): `count.c` and `client_count.c` of `tests/capi/programs`, on the tiny world.

The server of libdsa_client is a process of its own in the same scheduling class. Prints tables, and as its last line
one JSON document with the machine, the commit and the command.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from dsa_runtime import load_world
from dsa_runtime.doctor.load import busy_processes
from dsa_runtime.report.table import table
from tests.bench.bench_budget import scheduled
from tests.bench.capi_loops import Loop, Ways, reachable
from tests.bench.provenance import json_line
from tests.capi.conftest import PROGRAMS
from tests.tiny_world import write_tiny_world

QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
STAGES = ("runtime", "world", "session", "prepare", "first_step")
PARTS = ("start", "calls", "paced", "memory")
COUNTING = {"runtime": "count.c", "client": "client_count.c"}
PAUSES_US = {"back to back": 0, "apart": 20_000}
CALLS_PER_TURN = 50

Series = dict[str, np.ndarray]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. `arguments` without the program's name."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parse(given)
    with TemporaryDirectory(prefix="dsa-capi-bench-") as name:
        folder = Path(name)
        tiny = write_tiny_world(folder / "tiny")
        world = str(tiny) if options.tiny else options.world or ""
        ways = Ways(folder, options.libraries, world, options.threads)
        with load_world(world or None, threads=options.threads) as loaded:
            spec = loaded.spec
        figures: dict[str, Any] = {part: [] for part in options.parts}
        if "start" in figures:
            figures["start"] = [start(ways, library, options.starts) for library in ways.libraries]
        for scheduling in options.scheduling:
            with scheduled(scheduling) as permitted:
                if not permitted:
                    print("SCHED_FIFO is not permitted here and was left out\n")
                    continue
                if "calls" in figures:
                    figures["calls"] += [{"scheduling": scheduling, **row} for row in calls(ways, options.calls)]
                for load in options.loads if "paced" in figures else ():
                    rows = paced(ways, load, options.ticks, options.rate)
                    figures["paced"] += [{"scheduling": scheduling, "load": load, **row} for row in rows]
        if "memory" in figures:
            figures["memory"] = [memory(ways, folder, tiny, library, options) for library in ways.libraries]
    print(text(figures))
    settings = {name: getattr(options, name) for name in ("calls", "ticks", "rate", "threads", "starts")}
    line = json_line("capi", given, spec, settings=settings, **figures)
    if options.json:
        options.json.write_text(line + "\n")
    print(line)
    return 0


def parse(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.bench_capi",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--world", default=None, help="package folder, archive or bundled name")
    which.add_argument("--tiny", action="store_true", help="a made-up world that costs next to nothing")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS[:3]))
    parser.add_argument("--libraries", nargs="+", choices=("runtime", "client"), default=["runtime", "client"])
    parser.add_argument("--calls", type=int, default=300, help="per way and pause (default: %(default)s)")
    parser.add_argument("--ticks", type=int, default=1200, help="per paced loop (default: %(default)s)")
    parser.add_argument("--rate", type=int, default=60, metavar="HZ")
    parser.add_argument("--loads", type=int, nargs="+", default=[0, 2], metavar="N", help="busy processes beside")
    parser.add_argument("--scheduling", nargs="+", choices=("normal", "fifo"), default=["normal", "fifo"])
    parser.add_argument("--starts", type=int, default=5, help="processes to start (default: %(default)s)")
    parser.add_argument("--memory-steps", type=int, default=50_000)
    parser.add_argument("--memory-sessions", type=int, default=2_000)
    parser.add_argument("--threads", type=int, default=1, help="threads per graph (default: %(default)s)")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the JSON document there as well")
    return parser.parse_args(given)


def start(ways: Ways, library: str, starts: int) -> dict[str, Any]:
    """How long the parts of starting take, in milliseconds."""
    found = []
    for _ in range(starts):
        with ways.loop(library) as loop:
            found.append(loop.start_us)
    return {"library": library, **dict(zip(STAGES, (np.median(found, axis=0) * 1e-3).tolist(), strict=True))}


def in_turns(loops: dict[str, Loop], asked: dict[str, tuple[object, ...]], turns: int) -> dict[str, Series]:
    """Let each loop do what it is asked, one after the other, so that a machine that gets busier does so for all."""
    found: dict[str, dict[str, list[np.ndarray]]] = {name: defaultdict(list) for name in loops}
    for _ in range(turns):
        for name, loop in loops.items():
            for series, values in loop.ask(*asked[name]).items():
                found[name][series].append(values)
    return {name: {each: np.concatenate(parts) for each, parts in series.items()} for name, series in found.items()}


def calls(ways: Ways, count: int) -> list[dict[str, Any]]:
    """Calls without a budget, from Python and from C."""
    rows = []
    with ExitStack() as stack:
        loops = {way: stack.enter_context(ways.loop(way)) for way in ("python", *ways.libraries)}
        for name, pause_us in PAUSES_US.items():
            turns = max(count // CALLS_PER_TURN, 1)
            found = in_turns(loops, {way: ("calls", min(count, CALLS_PER_TURN), pause_us) for way in loops}, turns)
            for way, series in found.items():
                row = {f"{each}_us": quantiles(values) for each, values in series.items()}
                if way != "python":
                    near = quantiles(found["python"]["overhead"])
                    row["over_python_us"] = {q: row["overhead_us"][q] - near[q] for q in QUANTILES}
                rows.append({"way": way, "when": name, **row})
    return rows


def paced(ways: Ways, load: int, ticks: int, rate: int) -> list[dict[str, Any]]:
    """Loops at a rate: one that only sleeps, and one with each library."""
    with ExitStack() as stack:
        loops = {library: stack.enter_context(ways.loop(library)) for library in ways.libraries}
        asked: dict[str, tuple[object, ...]] = dict.fromkeys(loops, ("paced", rate, rate))
        loops = {"native": loops[ways.libraries[0]], **loops}  # its process; the session rests meanwhile
        stack.enter_context(busy_processes(load))
        found = in_turns(loops, {"native": ("native", rate, rate), **asked}, max(ticks // rate, 1))
    rows = []
    for name, series in found.items():
        late, steps = series.pop("late", None), series.pop("steps", None)
        row: dict[str, Any] = {f"{each}_us": quantiles(values) for each, values in series.items()}
        if late is not None and steps is not None:
            row |= {"late": int(late.sum()), "mean_steps": float(steps.mean())}
        rows.append({"loop": name, **row})
    return rows


def memory(ways: Ways, folder: Path, tiny: Path, library: str, options: argparse.Namespace) -> dict[str, Any]:
    """Allocations per step on the thread that calls (`thread`, or by whose code asks), and kilobytes that are kept."""
    program, counts = (
        ways.compile(PROGRAMS / COUNTING[library], library),
        (options.memory_steps, options.memory_sessions),
    )
    with reachable(library, folder, str(tiny), "1") as environment:
        named = str(tiny) if library == "runtime" else "tiny"
        command = [str(program), named, *map(str, counts)]
        printed = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    found = {name: float(value) for name, value in (pair.split("=") for pair in printed.split())}
    return {"library": library, "steps": counts[0], "sessions": counts[1], **found}


def quantiles(values: np.ndarray) -> dict[str, float]:
    """Nearest-rank quantiles, so that every one was really measured."""
    found = np.quantile(values, list(QUANTILES.values()), method="inverted_cdf")
    return dict(zip(QUANTILES, found.tolist(), strict=True))


def text(figures: dict[str, Any]) -> str:
    """For reading."""
    tables = []
    if found := figures.get("start"):
        tables.append(table(("start-up, ms", *STAGES), [tuple(row.values()) for row in found]))
    for part, keys in (("calls", ("scheduling", "when", "way")), ("paced", ("scheduling", "load", "loop"))):
        rows = []
        for row in figures.get(part, ()):
            rest = (row.get("late"), row.get("mean_steps")) if part == "paced" else ()
            for name in (name for name in row if name.endswith("_us")):
                shown = name.removesuffix("_us").replace("_", " ")
                rows.append((*(row[key] for key in keys), shown, *row[name].values(), *rest))
        if rows:
            last = ("late", "mean steps") if part == "paced" else ()
            tables.append(table((*keys, f"{part}, us", *QUANTILES, *last), rows))
    for row in figures.get("memory", ()):
        tables.append(table(("memory", ""), list(row.items())))
    return "\n\n".join(tables)


if __name__ == "__main__":
    sys.exit(main())
