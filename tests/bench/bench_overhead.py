"""What a tick costs on top of the engine: total - wait - denoise - abandoned - decode, `latency_ms["sdk"]`.

    python -m tests.bench.bench_overhead [--world W | --tiny] [--ticks 2000] [--rates 60] [--threads N] [--json FILE]

Back to back, paced at the world's native rate and at `--rates`; with exactly 1..K steps and no budget, and by the
controller's own choice with a budget of a second, which it never needs but watches. `--tiny` measures a world whose
graphs cost next to nothing, so that hardly anything but the SDK is left.

Prints a table, and as its last line one JSON document with the machine, the commit and the command.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm import tqdm

from dsa_runtime import World, load_world
from dsa_runtime.commands.player import ScriptedPlayer
from dsa_runtime.report.play import distribution
from dsa_runtime.report.table import table
from tests.bench.bench_budget import Lane, edges
from tests.bench.provenance import json_line
from tests.tiny_world import write_tiny_world

AMPLE_MS = 1000.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. `arguments` without the program's name."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.bench_overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--world", default=None, help="package folder, archive or bundled name")
    which.add_argument("--tiny", action="store_true", help="a made-up world that costs next to nothing")
    parser.add_argument("--ticks", type=int, default=2000, help="ticks per row (default: %(default)s)")
    parser.add_argument("--rates", type=float, nargs="*", default=[60.0], metavar="HZ")
    parser.add_argument("--threads", type=int, default=None, help="threads per graph (default: one per core)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the JSON document there as well")
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    tqdm.monitor_interval = 0  # no thread of its own while we measure
    with TemporaryDirectory() as folder:
        package = write_tiny_world(Path(folder, "tiny")) if options.tiny else options.world
        with load_world(package, threads=options.threads) as world:
            spec, rows = world.spec, measure(world, options)
    print(text(rows))
    figures = {"ticks": options.ticks, "threads": options.threads, "seed": options.seed, "rows": rows}
    line = json_line("overhead", given, spec, **figures)
    if options.json:
        options.json.write_text(line + "\n")
    print(line)
    return 0


def measure(world: World, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Play every pace and number of steps, in turns."""
    spec = world.spec
    action = ScriptedPlayer(spec.action_space).action
    paces = {
        "back to back": None,
        f"native {spec.frame.fps:g} Hz": spec.frame.period_ms,
        **{f"{rate:g} Hz": 1000 / rate for rate in options.rates},
    }
    with ExitStack() as stack:
        lanes = [
            (pace, Lane(f"exactly {steps}" if steps else "own choice",
            stack.enter_context(world.session(options.seed)), steps))
            for pace in paces for steps in (*range(1, spec.schedule.steps + 1), None)
        ]  # fmt: skip
        blocks = edges(options.ticks)
        bar = stack.enter_context(tqdm(total=len(blocks) * len(lanes), unit="block", disable=None, leave=False))
        for start, end in blocks:
            for pace, lane in lanes:
                lane.play(end - start, math.inf if lane.steps else AMPLE_MS, paces[pace], action)
                bar.update()
    return [
        {
            "pace": pace,
            "steps": lane.name,
            "sdk_ms": distribution([one.latency_ms["sdk"] for one in lane.records]),
            "wait_ms": distribution([one.latency_ms["wait"] for one in lane.records]),
            "total_ms": distribution([one.latency_ms["total"] for one in lane.records]),
            # What the call costs before and after the SDK looks at the clock.
            "around_ms": distribution([one.total_ms - one.latency_ms["total"] for one in lane.records]),
        }
        for pace, lane in lanes
    ]


def text(rows: list[dict[str, Any]]) -> str:
    """All rows for reading."""
    header = ("pace", "steps", "sdk p50 ms", "sdk p99 ms", "sdk max ms", "around p99 ms", "wait p50 ms", "total p50 ms")
    return table(
        header,
        [
            (
                row["pace"], row["steps"], *(row["sdk_ms"][key] for key in ("p50", "p99", "max")),
                row["around_ms"]["p99"], row["wait_ms"]["p50"], row["total_ms"]["p50"],
            )
            for row in rows
        ],
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
