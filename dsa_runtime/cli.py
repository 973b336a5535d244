"""The command line, `dsa`. Results go to stdout, progress and errors to stderr.

Exit status: 0 success, 2 a problem with what was asked or given (one line says which), 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from . import __version__
from .errors import DsaError, WorldError

_ADVICE = "pass a package folder or a .dsaworld archive that is whole; `dsa info` lists the bundled worlds"


class _Parser(argparse.ArgumentParser):
    """Errors in one line, with the way to the help."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. `arguments` without the program's name."""
    parser, commands = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    try:
        result = commands[options.command].run(options)
        print(json.dumps(result.document, indent=1, allow_nan=False) if options.json else result.text, flush=True)
        return 0
    except DsaError as error:
        advice = f"; {_ADVICE}" if isinstance(error, WorldError) else ""
        return _fail(options, f"{error}{advice}")
    except BrokenPipeError:
        # The reader, for example `head`, has seen enough. Nothing may be written when the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        advice = "; choose a folder that can be written with --out" if hasattr(options, "out") else ""
        return _fail(options, f"{where}{error.strerror or error}{advice}")
    except KeyboardInterrupt:
        return 130


def _parser() -> tuple[argparse.ArgumentParser, dict[str, ModuleType]]:
    from .commands import bench, demo, doctor, info, keys, replay, serve, verify

    commands = {
        "demo": demo,
        "bench": bench,
        "doctor": doctor,
        "info": info,
        "verify": verify,
        "replay": replay,
        "serve": serve,
        "keys": keys,
    }
    parser = _Parser(prog="dsa", description="Play neural worlds under a time budget per tick.")
    parser.add_argument("--version", action="version", version=f"dsa-runtime {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    for name, module in commands.items():
        module.add_arguments(subparsers.add_parser(name, help=module.HELP, description=module.__doc__))
    return parser, commands


def _fail(options: argparse.Namespace, problem: str) -> int:
    line = " ".join(problem.split())
    if options.json:
        print(json.dumps({"ok": False, "error": line}))
    print(f"dsa {options.command}: {line}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
