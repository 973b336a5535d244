"""A long mixed load on one server, and whether it keeps anything of it: memory, sessions, shared memory, sockets.

    python -m tests.bench.bench_soak [--minutes 30] [--clients 2] [--every 5] [--growth 5] [--json FILE]

`dsa serve` runs in a process of its own, with two made-up worlds. Each of the client processes plays three sessions at
a time, at 10, 30 and 60 Hz and back to back, with frames as parts, in shared memory, as JPEG and PNG; takes snapshots,
restores, resets, rewinds, forks and cancels; opens sessions and leaves without a word, so that their leases run out;
looks on, or subscribes and never reads; sends what is no message. Every half a minute one of them is killed and another
one comes. Its metrics are read over HTTP at every sample.

Before it, a short load is over and done with; that level counts. After it, when all clients have gone and the leases
have run out, there must be no more sessions, slots of the frame cache, shared-memory files, sockets and open files than
there; nor threads, but for those that a world keeps for as many sessions as were at it at the same time. Resident
memory after a warm-up of a fifth of the time is fitted by a line. If it rises by more than `--growth` MB per hour, its
error taken off, that is a leak too; less than ten minutes after the warm-up are too short to tell.

Prints a table, and as its last line one JSON document with the machine, the commit and the command. Ends with status 1
if something has leaked or gone wrong. Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dsa_runtime import Connection, WorldSpec, connect
from dsa_runtime.report.table import table
from tests.bench.provenance import json_line
from tests.bench.soak_clients import USERS
from tests.bench.soak_levels import Level, leaks, look, trend
from tests.serving.serve_process import ServeProcess
from tests.tiny_world import write_tiny_world

LEASE_S = 5.0
KILL_EVERY_S = 30.0
PRELUDE_S = 3.0
SETTLE_S = 30.0
JUDGED_FROM_S = 600.0
TABLE_ROWS = 24
_PATIENCE_S = 60.0
_ROOT = Path(__file__).resolve().parents[2]


class Herd:
    """The client processes. Use it in a `with` statement, at whose end none is left."""

    def __init__(self, address: str, count: int) -> None:
        self.done: Counter[str] = Counter()
        self.problems: list[str] = []
        self._address, self._seed = address, 0
        self._processes = [self._start() for _ in range(count)]
        for process in self._processes:
            assert process.stdout is not None
            process.stdout.readline()  # it is ready

    def kill_one(self) -> None:
        """The oldest, in the middle of whatever it is at; another one comes."""
        victim = self._processes.pop(0)
        if victim.poll() is not None:
            self.problems.append(f"clients ended early, with status {victim.returncode}")
        victim.kill()
        victim.communicate()
        self.done["killed clients"] += 1
        self._processes.append(self._start())

    def end(self) -> None:
        """Let all close their sessions, and count what they did."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes:
            assert process.stdout is not None
            said = process.stdout.read()
            status = process.wait(_PATIENCE_S)
            if status:
                self.problems.append(f"clients ended with status {status}")
                continue
            document = json.loads(said.splitlines()[-1])
            self.done.update(document["done"])
            self.problems += document["problems"]
        self._processes = []

    def __enter__(self) -> Herd:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()

    def _start(self) -> subprocess.Popen[str]:
        self._seed += 1
        command = [sys.executable, "-m", "tests.bench.soak_clients", self._address, str(self._seed)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT)


class Watch:
    """Looks at a server, over one connection that stays."""

    def __init__(self, server: ServeProcess, connection: Connection, kept_threads: int) -> None:
        self.kept_threads = kept_threads
        """That the worlds may keep."""
        self.levels: list[Level] = []
        self.rings: set[str] = set()
        """Every shared-memory file that was ever seen."""
        self._pid, self._connection = server.process.pid, connection
        self._metrics = f"http://{server.ready['metrics']}/metrics"
        self._started_s = time.monotonic()

    def look(self) -> Level:
        """The level now."""
        with urllib.request.urlopen(self._metrics, timeout=_PATIENCE_S) as reply:
            reply.read()
        level, rings = look(self._pid, time.monotonic() - self._started_s, self._connection.stats())
        self.rings |= rings
        return level

    def sample(self) -> None:
        """Keep the level."""
        self.levels.append(self.look())

    def settle(self, before: Level | None = None) -> Level:
        """The level when every session is gone and nothing is held any more that was not `before`; or after a while."""
        give_up_s = time.monotonic() + SETTLE_S
        while True:
            level = self.look()
            quiet = not level.sessions and not (before and leaks(before, level, self.kept_threads))
            if quiet or time.monotonic() > give_up_s:
                return level
            time.sleep(0.2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. `arguments` without the program's name."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.bench_soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="(default: %(default)g)")
    parser.add_argument("--clients", type=int, default=2, help="client processes (default: %(default)s)")
    parser.add_argument("--every", type=float, default=5.0, metavar="S", help="between samples (default: %(default)g)")
    parser.add_argument(
        "--growth",
        type=float,
        default=5.0,
        metavar="MB",
        help="of memory per hour that is allowed (default: %(default)g)",
    )
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the JSON document there as well")
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    with TemporaryDirectory() as folder:
        packages = [
            write_tiny_world(Path(folder, "small"), name="small"),
            write_tiny_world(Path(folder, "large"), name="large", height=240, width=320),
        ]
        spec = WorldSpec.from_json((packages[0] / "world.json").read_bytes(), "world.json")
        result = soak(packages, options)
    print(text(result))
    line = json_line("soak", given, spec, minutes=options.minutes, clients=options.clients, **result)
    if options.json:
        options.json.write_text(line + "\n")
    print(line)
    return 0 if result["passed"] else 1


def soak(packages: Sequence[Path], options: argparse.Namespace) -> dict[str, Any]:
    """The load, and what it left."""
    settings = ("--bind", "tcp://127.0.0.1:*", "--publish", "tcp://127.0.0.1:*", "--metrics", "127.0.0.1:0",
                "--lease-s", LEASE_S, "--max-sessions", 48, "--threads", 1, "--log", "json")  # fmt: skip
    problems: list[str] = []
    with ExitStack() as stack:
        server = stack.enter_context(ServeProcess(*packages, *settings))
        connection = stack.enter_context(connect(server.address))
        watch = Watch(server, connection, len(packages) * options.clients * USERS)
        with Herd(server.address, 1) as prelude:
            time.sleep(PRELUDE_S)
            prelude.end()
        problems += prelude.problems
        before = watch.settle()
        herd = stack.enter_context(Herd(server.address, options.clients))
        load(herd, watch, options)
        herd.end()
        problems += herd.problems
        after = watch.settle(before)
        stats = connection.stats()
        connection.close()
        server.terminate()
        status, _ = server.end()
        if status:
            problems.append(f"the server ended with status {status}")
        problems += [line for line in server.errors().splitlines() if "Traceback" in line or '"error"' in line][:20]
    left = sorted(path for path in watch.rings if Path(path).exists())
    grown = trend(after_warm_up(watch.levels))
    held = leaks(before, after, watch.kept_threads)
    judged = watch.levels[-1].at_s - warm_up_s(watch.levels) >= JUDGED_FROM_S
    grows = judged and grown is not None and grown.slope - grown.error > options.growth
    return {
        "passed": not (problems or left or held or grows),
        "leaked": held,
        "rings_left": len(left),
        "rings_seen": len(watch.rings),
        "memory_mb_per_hour": None if grown is None else asdict(grown),
        "memory_judged": judged,
        "memory_grows": grows,
        "problems": problems,
        "done": dict(sorted((prelude.done + herd.done).items())),
        "stats": stats,
        "before": asdict(before),
        "after": asdict(after),
        "samples": [asdict(one) for one in watch.levels],
    }


def load(herd: Herd, watch: Watch, options: argparse.Namespace) -> None:
    """Look on while the clients play."""
    started_s = time.monotonic()
    end_s, kill_s = started_s + 60 * options.minutes, started_s + min(KILL_EVERY_S, 30 * options.minutes)
    while (now_s := time.monotonic()) < end_s:
        if now_s >= kill_s:
            herd.kill_one()
            kill_s = now_s + KILL_EVERY_S
        watch.sample()
        time.sleep(max(min(now_s + options.every, end_s) - time.monotonic(), 0.0))
    watch.sample()


def warm_up_s(levels: Sequence[Level]) -> float:
    """When memory counts from on."""
    first_s, last_s = levels[0].at_s, levels[-1].at_s
    return first_s + (last_s - first_s) / 5


def after_warm_up(levels: Sequence[Level]) -> list[Level]:
    """Those that count."""
    return [level for level in levels if level.at_s >= warm_up_s(levels)]


def text(result: dict[str, Any]) -> str:
    """The result for reading."""
    samples = result["samples"]
    shown = samples[:: max(len(samples) // TABLE_ROWS, 1)]
    named = [
        ("before", result["before"]),
        *((f"{one['at_s']:.0f} s", one) for one in shown),
        ("after", result["after"]),
    ]
    columns = ("rss_mb", "threads", "files", "sockets", "rings", "sessions", "slots", "ticks")
    lines = [table(("", *columns), [(name, *(one[key] for key in columns)) for name, one in named])]
    lines.append("\ndone: " + ", ".join(f"{count} {name}" for name, count in result["done"].items()))
    grown = result["memory_mb_per_hour"]
    if grown is None:
        lines.append("memory: too short to say anything of its trend")
    else:
        judged = "" if result["memory_judged"] else " (too short to be judged)"
        lines.append(f"memory: {grown['slope']:+.2f} ± {grown['error']:.2f} MB per hour{judged}")
    lines += [f"LEAKED {name}: {was} before, {now} after" for name, (was, now) in result["leaked"].items()]
    if result["rings_left"]:
        lines.append(f"LEFT BEHIND: {result['rings_left']} shared-memory files")
    if result["memory_grows"]:
        lines.append("LEAKED memory: it grows")
    lines += [f"PROBLEM {one}" for one in result["problems"]]
    lines.append("passed" if result["passed"] else "FAILED")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
