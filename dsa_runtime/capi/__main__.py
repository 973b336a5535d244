"""`python -m dsa_runtime.capi`: build libdsa_runtime, and say how to link with it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .build import BuildError, build, cflags, libs


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dsa_runtime.capi", description=__doc__)
    parser.add_argument("command", nargs="?", choices=["build"], help="compile the library for this Python")
    parser.add_argument(
        "--out", type=Path, default=Path(sys.prefix), metavar="DIR", help="where the library is; default: %(default)s"
    )
    parser.add_argument("--cflags", action="store_true", help="print the flags for compiling a program")
    parser.add_argument("--libs", action="store_true", help="print the flags for linking it")
    options = parser.parse_args(arguments)
    if not (options.command or options.cflags or options.libs):
        parser.error("nothing to do: build, --cflags or --libs")
    folder = options.out.absolute()
    try:
        if options.command:
            print(build(folder), file=sys.stderr if options.cflags or options.libs else sys.stdout)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    asked = [cflags(folder)] * options.cflags + [libs(folder)] * options.libs
    if asked:
        print(" ".join(asked))
    return 0


if __name__ == "__main__":
    sys.exit(main())
