"""Ticks per second of the SDK with a fixed number of denoising steps and with the world's own choice.

    python -m tests.bench.bench_tick [--world WORLD] [--ticks N] [--threads N]

Prints a table, and as its last line one JSON document with the machine, the commit and the command.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence

from dsa_runtime.commands import bench
from tests.bench.provenance import commit


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


if __name__ == "__main__":
    sys.exit(main())
