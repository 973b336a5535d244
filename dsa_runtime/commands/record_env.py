"""`dsa record-env`: a Gymnasium environment as a dataset and a recipe, by the training side of a checkout.

All arguments go to `python -m exporters.recording record-env`, in a process of its own: this package never imports the
training side.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from ..errors import DsaError
from .result import Result

HELP = "record any Gymnasium environment to train a world of it (needs a checkout)"
_MODULE = Path("exporters") / "recording" / "__main__.py"
_NEEDS = ("gymnasium", "dacite")
_INSTALL = "pip install torch --index-url https://download.pytorch.org/whl/cpu && pip install -e '.[train]'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.prefix_chars = "\0"  # options are the training side's to read, --help and --json too
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    parser.set_defaults(json=False)


def run(options: argparse.Namespace) -> Result:
    root = checkout()
    missing = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise DsaError(f"{', '.join(missing)} is not installed, which recording needs; in {root}: {_INSTALL}")
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "exporters.recording", "record-env", *options.arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(2)  # it has said why on stderr
    return Result({"output": done.stdout}, done.stdout.rstrip("\n"))


def checkout() -> Path:
    """The folder in which the training side lies: on Python's path, here, or that of an editable installation."""
    for place in (*sys.path, ".", str(Path(__file__).parents[2])):
        if (Path(place) / _MODULE).is_file():
            return Path(place).resolve()
    raise DsaError(
        "the training side is not here: it is part of a checkout of this project, not of the installed package;"
        f" run this in one, after {_INSTALL}"
    )
