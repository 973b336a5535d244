"""Where a result comes from: the command that made it, and the code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def command_line() -> str:
    """The command of `python -m exporters` that runs."""
    return "python -m exporters " + " ".join(sys.argv[1:])


def commit() -> str:
    """The checkout's commit, with `+` if files differ from it; `unknown` outside a checkout."""
    try:
        git = ["git", "-C", str(Path(__file__).parent)]
        name = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name.stdout.strip() + ("+" if changed.stdout.strip() else "")
