"""Ticks per second of the SDK with a fixed number of denoising steps and with the world's own choice.

    python -m tests.bench.bench_tick [--world WORLD] [--ticks N] [--threads N]

Prints a table, and as its last line one JSON document with the machine, the commit and the command.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from dsa_runtime.commands import bench


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. `arguments` without the program's name."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.bench_tick", description=bench.HELP)
    bench.add_arguments(parser)
    given = list(sys.argv[1:] if arguments is None else arguments)
    result = bench.run(parser.parse_args(given))
    print(result.text)
    line = {
        "bench": "tick",
        "command": shlex.join(["python", "-m", "tests.bench.bench_tick", *given]),
        "commit": commit(),
        **result.document,
    }
    print(json.dumps(line, allow_nan=False))
    return 0


def commit() -> str:
    """The checked-out commit, with "+" if the source was changed since; "unknown" outside a checkout."""

    def git(*command: str) -> str:
        root = Path(__file__).parent
        return subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
