"""From C: what a call costs on top of the SDK, start-up, allocations, memory, and how steady a paced loop is.

    python -m tests.bench.bench_capi [--world W | --tiny] [--libraries runtime client] [--ticks 3000] [--rate 60]
        [--loads 0 2] [--scheduling normal fifo] [--starts 5] [--memory-steps 50000] [--memory-sessions 2000]
        [--threads 1] [--json FILE]

* overhead: the function in C, from call to return, minus what the SDK says the tick took (`total_us`), back to back;
  `apart`: a millisecond apart, so that nothing of the tick before is still running; and paced. Beside it the same of
  `Session.step` in Python, which also has something before its clock starts and after it stops. Of libdsa_client it is
  the way to the server and back. `where` is a call that does nothing.
* start-up: opening runtime, world and session, preparing it, the first step; the median of some processes.
* allocations and memory: `tests/capi/programs/count.c`, on the tiny world; libdsa_runtime.
* paced: a loop in C that sleeps until the next period, then steps with a budget of one period; in turns of a second
  with one that only sleeps. `woke`: from the set time until the loop is awake; `ready`: until it has the frame.

The server of libdsa_client is a process of its own in the same scheduling class. Prints tables, and as its last line
one JSON document with the machine, the commit and the command.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, sleep
from typing import Any

import numpy as np

from dsa_runtime import load_world
from dsa_runtime.capi.build import build, cflags, libs
from dsa_runtime.commands.player import ScriptedPlayer
from dsa_runtime.doctor.load import busy_processes
from dsa_runtime.report.table import table
from tests.bench.bench_budget import scheduled
from tests.bench.provenance import json_line
from tests.capi import client
from tests.tiny_world import write_tiny_world

HERE = Path(__file__).parent
COUNT = HERE.parent / "capi" / "programs"
QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
CALLS = ("call", "overhead", "apart", "where")
STAGES = ("runtime", "world", "session", "prepare", "first_step")
MS_PER_US = 1e-3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. `arguments` without the program's name."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parse(given)
    with TemporaryDirectory(prefix="dsa-capi-bench-") as name:
        folder = Path(name)
        tiny = write_tiny_world(folder / "tiny")
        world = str(tiny) if options.tiny else options.world or ""
        programs = {library: compiled(folder, library) for library in options.libraries}
        with load_world(world or None, threads=options.threads) as loaded:
            spec = loaded.spec
            python = python_calls(loaded, options.ticks)
        figures: dict[str, Any] = {"python": python, "libraries": {}, "paced": []}
        for library, program in programs.items():
            with reachable(library, folder, world, options.threads) as environment:
                figures["libraries"][library] = measure(program, world, options, environment)
        if "runtime" in programs:
            figures["memory"] = memory(folder, tiny, options)
        for scheduling in options.scheduling:
            with scheduled(scheduling) as permitted:
                if not permitted:
                    print("SCHED_FIFO is not permitted here and was left out\n")
                    continue
                for load in options.loads:
                    for library, program in programs.items():
                        with reachable(library, folder, world, options.threads) as environment, busy_processes(load):
                            row = paced(program, world, options, environment)
                        figures["paced"].append({"scheduling": scheduling, "load": load, "library": library, **row})
    print(text(figures))
    line = json_line("capi", given, spec, **vars_of(options), **figures)
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
    parser.add_argument("--libraries", nargs="+", choices=("runtime", "client"), default=["runtime", "client"])
    parser.add_argument("--ticks", type=int, default=3000, help="per row (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=60.0, metavar="HZ")
    parser.add_argument("--loads", type=int, nargs="+", default=[0, 2], metavar="N", help="busy processes beside")
    parser.add_argument("--scheduling", nargs="+", choices=("normal", "fifo"), default=["normal", "fifo"])
    parser.add_argument("--starts", type=int, default=5, help="processes to start (default: %(default)s)")
    parser.add_argument("--memory-steps", type=int, default=50_000)
    parser.add_argument("--memory-sessions", type=int, default=2_000)
    parser.add_argument("--threads", type=int, default=1, help="threads per graph (default: %(default)s)")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the JSON document there as well")
    return parser.parse_args(given)


def vars_of(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that belong to the figures."""
    return {name: getattr(options, name) for name in ("ticks", "rate", "threads", "starts")}


def compiled(folder: Path, library: str) -> Path:
    """The loop, linked with this library."""
    prefix, program = folder / library, folder / f"loop_{library}"
    if library == "runtime":
        build(prefix)
        flags = [*cflags(prefix).split(), *libs(prefix).split()]
    else:
        prefix.mkdir()
        client.make(prefix, "all", "-O2")
        flags = ["-I", str(client.SOURCES), str(prefix / client.NAME), f"-Wl,-rpath,{prefix}"]
    subprocess.run(["cc", "-std=c11", "-O2", str(HERE / "capi_loop.c"), "-o", str(program), *flags], check=True)
    return program


@contextmanager
def reachable(library: str, folder: Path, world: str, threads: int) -> Iterator[dict[str, str]]:
    """The environment of a program; for libdsa_client with a server beside it."""
    environment = {**os.environ, "DSA_PYTHON": sys.executable}
    if library == "runtime":
        yield environment
        return
    address = f"ipc://{folder}/socket"
    command = [sys.executable, "-m", "dsa_runtime.cli", "serve", *([world] if world else []), "--json"]
    server = subprocess.Popen(
        [*command, "--bind", address, "--threads", str(threads)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdout is not None
    try:
        if not server.stdout.readline():
            raise RuntimeError(f"{command}: the server did not start")
        yield {**environment, "DSA_SERVER": address}
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def output(program: Path, world: str, options: argparse.Namespace, environment: dict[str, str], *rest: object) -> dict:
    """The series that the loop prints, by name."""
    # A server knows its worlds by their names; the first is meant.
    named = "" if "DSA_SERVER" in environment else world
    command = [str(program), named, str(options.threads), *map(str, rest)]
    printed = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    lines = (line.split() for line in printed.splitlines())
    return {name: np.array(values, float) for name, *values in lines}


def measure(program: Path, world: str, options: argparse.Namespace, environment: dict[str, str]) -> dict[str, Any]:
    """Start-up, and calls back to back."""
    starts = [
        output(program, world, options, environment, "calls", 1)["start"] for _ in range(options.starts)
    ]  # fmt: skip
    found = output(program, world, options, environment, "calls", options.ticks)
    start_ms = np.median(starts, axis=0) * MS_PER_US
    return {
        "start_ms": dict(zip(STAGES, start_ms.tolist(), strict=True)),
        **{f"{name}_us": quantiles(found[name]) for name in CALLS},
    }


def paced(program: Path, world: str, options: argparse.Namespace, environment: dict[str, str]) -> dict[str, Any]:
    found = output(program, world, options, environment, "paced", options.ticks, options.rate)
    return {
        "late": int(found["late"][0]),
        "mean_steps": float(found["steps"].mean()),
        **{f"{name}_us": quantiles(found[name]) for name in ("native", "woke", "ready", "overhead")},
    }


def python_calls(world: Any, ticks: int) -> dict[str, Any]:
    """The same of `Session.step`: calls, and what they take outside their own clock; in microseconds."""
    action, found = ScriptedPlayer(world.spec.action_space).action, {}
    with world.session(0) as session:
        for name, pause_s in (("overhead", 0.0), ("apart", 1e-3)):
            calls, outside = [], []
            for number in range(ticks):
                if pause_s:
                    sleep(pause_s)
                chosen, began = action(number), perf_counter()
                tick = session.step(chosen, math.inf)
                calls.append((perf_counter() - began) * 1e6)
                outside.append(calls[-1] - tick.latency_ms["total"] * 1e3)
            found[name] = np.array(outside)
            found.setdefault("call", np.array(calls))
    return {f"{name}_us": quantiles(found[name]) for name in CALLS if name in found}


def memory(folder: Path, tiny: Path, options: argparse.Namespace) -> dict[str, float]:
    """Allocations per step and kilobytes that are kept."""
    prefix, program = folder / "runtime", folder / "count"
    flags = ["-I", str(COUNT), *cflags(prefix).split(), *libs(prefix).split()]
    subprocess.run(["cc", "-std=c11", "-O2", str(COUNT / "count.c"), "-o", str(program), *flags], check=True)
    command = [str(program), str(tiny), str(options.memory_steps), str(options.memory_sessions)]
    environment = {**os.environ, "DSA_PYTHON": sys.executable}
    printed = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    found = dict(pair.split("=") for pair in printed.split())
    names = {"thread": "allocations_own_thread", "process": "allocations_process", "kb": "steps_kb"}
    return {names.get(name, name): float(value) for name, value in found.items()} | {
        "steps": options.memory_steps,
        "sessions": options.memory_sessions,
    }


def quantiles(values: np.ndarray) -> dict[str, float]:
    """Nearest-rank quantiles, so that every one was really measured."""
    found = np.quantile(values, list(QUANTILES.values()), method="inverted_cdf")
    return dict(zip(QUANTILES, found.tolist(), strict=True))


def text(figures: dict[str, Any]) -> str:
    """For reading."""
    calls, starts = [], []
    for way, found in {"Python": figures["python"], **figures["libraries"]}.items():
        calls += [(f"{way}, {name}", *found[f"{name}_us"].values()) for name in CALLS if f"{name}_us" in found]
        if "start_ms" in found:
            starts.append((way, *found["start_ms"].values()))
    rows = [
        (
            row["scheduling"],
            row["load"],
            row["library"],
            name,
            *row[f"{name}_us"].values(),
            row["late"],
            row["mean_steps"],
        )
        for row in figures["paced"]
        for name in ("native", "woke", "ready", "overhead")
    ]
    return "\n\n".join(
        [
            table(("calls, us", *QUANTILES), calls),
            table(("start-up, ms", *STAGES), starts),
            *([table(("memory", ""), list(figures["memory"].items()))] if "memory" in figures else []),
            table(("class", "load", "library", "paced, us", *QUANTILES, "late", "mean steps"), rows),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
