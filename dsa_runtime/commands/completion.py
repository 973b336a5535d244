"""`dsa completion`: print a script that lets the shell complete commands, options and file names.

    dsa completion bash > ~/.local/share/bash-completion/completions/dsa
    dsa completion zsh > ~/.zfunc/_dsa          # in a folder of $fpath

It knows the commands and options of this version; write it again after an update.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import DsaError
from .arguments import add_json
from .result import Result

HELP = "print a completion script for bash, zsh or tcsh"
SHELLS = ("bash", "zsh", "tcsh")
_FILES = {"FILE", "DIR", "WORLD", "RECORDING", "OUT", "GIF", "FILE.dsarec", "KEY", "PUBLIC"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("shell", choices=SHELLS, help="for which shell")
    add_json(parser)


def run(options: argparse.Namespace) -> Result:
    try:
        import shtab
    except ModuleNotFoundError:
        raise DsaError(
            "shtab is not installed, which writes the script: pip install 'dsa-runtime[completion]'"
        ) from None

    _complete_files(options.parser, shtab.FILE)
    script = shtab.complete(options.parser, options.shell).rstrip("\n")
    return Result({"shell": options.shell, "script": script}, script)


def _complete_files(parser: argparse.ArgumentParser, files: Any) -> None:
    """Let arguments that may be paths complete to such, in all commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_files(command, files)
        elif action.type is Path or action.metavar in _FILES:
            action.complete = files  # type: ignore[attr-defined]
