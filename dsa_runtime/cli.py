"""The command line, `dsa`. Results go to stdout, progress and errors to stderr.

Exit status: 0 success, 2 a problem with what was asked or given (one line says which), 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from . import __version__
from .errors import DsaError, ServerGoneError, WorldError

_ADVICE: dict[type[DsaError], str] = {
    WorldError: "pass a package folder or a .dsaworld archive that is whole; `dsa info` lists the bundled worlds",
    ServerGoneError: "does `dsa serve` run at that address, and does it let this client's key in?",
}
_WRITTEN = ("out", "record", "film")
"""Options of all commands that name what is written."""


class _Parser(argparse.ArgumentParser):
    """Errors in one line, with the way to the help."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. `arguments` without the program's name."""
    parser, commands = build_parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    try:
        result = commands[options.command].run(options)
        print(json.dumps(result.document, indent=1, allow_nan=False) if options.json else result.text, flush=True)
        return 0
    except DsaError as error:
        return _fail(options, "; ".join([str(error), *(_ADVICE[kind] for kind in _ADVICE if isinstance(error, kind))]))
    except BrokenPipeError:
        # The reader, for example `head`, has seen enough. Nothing may be written when the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(options, f"{where}{error.strerror or error}; {_advice_on_path(options, error.filename)}")
    except KeyboardInterrupt:
        return 130


def build_parser() -> tuple[argparse.ArgumentParser, dict[str, ModuleType]]:
    """The parser of `dsa`, and the module of each command."""
    from .commands import (
        bench,
        completion,
        demo,
        doctor,
        export,
        info,
        keys,
        play,
        record,
        record_env,
        replay,
        serve,
        verify,
    )

    commands = {
        "play": play,
        "demo": demo,
        "bench": bench,
        "doctor": doctor,
        "info": info,
        "verify": verify,
        "record": record,
        "export": export,
        "replay": replay,
        "serve": serve,
        "keys": keys,
        "record-env": record_env,
        "completion": completion,
    }
    parser = _Parser(prog="dsa", description="Play neural worlds under a time budget per tick.")
    parser.add_argument("--version", action="version", version=f"dsa-runtime {__version__}")
    parser.set_defaults(parser=parser)  # for `dsa completion`
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    for name, module in commands.items():
        module.add_arguments(subparsers.add_parser(name, help=module.HELP, description=module.__doc__))
    return parser, commands


def _advice_on_path(options: argparse.Namespace, path: object) -> str:
    """What to do about a path that could not be read or written."""
    for name in _WRITTEN:
        given = str(getattr(options, name, None) or "")
        # The folder above it, a file in it or a partial one beside it may be what failed.
        if given and (str(path).startswith(given) or Path(str(path)) in Path(given).parents):
            option = name.upper() if options.command == "export" else f"--{name}"
            return f"choose a place that can be written with {option}"
    return "check that the path is right and may be read"


def _fail(options: argparse.Namespace, problem: str) -> int:
    line = " ".join(problem.split())
    if options.json:
        print(json.dumps({"ok": False, "error": line}))
    print(f"dsa {options.command}: {line}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
