"""Whether a session grows: resident memory, the frame pool and threads over many ticks.

    python -m tests.bench.bench_memory [--world W] [--ticks 100000] [--every 5000] [--history 0] [--on-miss M]
        [--budget MS] [--threads N] [--json FILE]

By default a tiny world, back to back, so that 100,000 ticks take minutes. The first tenth is left out of the growth:
there the pages are touched for the first time and the windows of measured costs fill.

Prints a table, and as its last line one JSON document with the machine, the commit and the command. Linux only.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dsa_runtime import World, load_world
from dsa_runtime.commands.player import ScriptedPlayer
from dsa_runtime.report.table import table
from tests.bench.provenance import json_line
from tests.tiny_world import write_tiny_world

KIB = 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. `arguments` without the program's name."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.bench_memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--world", default=None, help="package folder, archive or bundled name (default: a tiny one)")
    parser.add_argument("--ticks", type=int, default=100_000)
    parser.add_argument("--every", type=int, default=None, metavar="N", help="ticks between samples (default: a 20th)")
    parser.add_argument("--budget", type=float, default=math.inf, metavar="MS", help="default: none")
    parser.add_argument("--on-miss", default="best_effort", choices=("best_effort", "repeat"))
    parser.add_argument("--history", type=int, default=0, help="ticks that can be undone (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=None, help="threads per graph (default: one per core)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the JSON document there as well")
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    with TemporaryDirectory() as folder:
        package = options.world or write_tiny_world(Path(folder, "tiny"))
        with load_world(package, threads=options.threads) as world:
            spec, samples = world.spec, measure(world, options)
    rows = [(one["tick"], one["rss_bytes"] / KIB, one["threads"], one["slots"], one["pools"]) for one in samples]
    print(table(("tick", "resident KiB", "threads", "slots used", "pools made"), rows))
    growth = growth_per_10k(samples)
    print(f"\ngrowth per 10,000 ticks after the first tenth: {growth / KIB:.1f} KiB")
    figures = {"ticks": options.ticks, "threads": options.threads, "seed": options.seed, "on_miss": options.on_miss,
               "history": options.history, "growth_bytes_per_10k_ticks": growth, "samples": samples}  # fmt: skip
    line = json_line("memory", given, spec, **figures)
    if options.json:
        options.json.write_text(line + "\n")
    print(line)
    return 0


def measure(world: World, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Play, and look at the process every so many ticks, the first time after one window."""
    action, cache = ScriptedPlayer(world.spec.action_space).action, world._cache
    every = options.every or max(options.ticks // 20, 1)
    samples: list[dict[str, Any]] = []
    pools, made = cache.pools, 1
    with world.session(options.seed, on_miss=options.on_miss, history=options.history) as session:
        for played in range(1, options.ticks + 1):
            session.step(action(played), options.budget)
            if cache.pools is not pools:
                pools, made = cache.pools, made + 1
            if played % every == 0:
                samples.append({"tick": played, "rss_bytes": resident_bytes(), "threads": threads(),
                                "slots": cache.used, "pools": made})  # fmt: skip
    return samples


def growth_per_10k(samples: Sequence[dict[str, Any]]) -> float:
    """Slope in bytes of the straight line that fits the samples best, the first tenth of the ticks left out."""
    kept = [one for one in samples if one["tick"] * 10 >= samples[-1]["tick"]]
    if len(kept) < 2:
        return 0.0
    mean_tick = sum(one["tick"] for one in kept) / len(kept)
    mean_rss = sum(one["rss_bytes"] for one in kept) / len(kept)
    along = sum((one["tick"] - mean_tick) * (one["rss_bytes"] - mean_rss) for one in kept)
    return 1e4 * along / sum((one["tick"] - mean_tick) ** 2 for one in kept)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def threads() -> int:
    """Of the process, those of the engine included."""
    return len(os.listdir("/proc/self/task"))


if __name__ == "__main__":
    sys.exit(main())
