"""Provenance: what every benchmark says about where its figures come from."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dsa_runtime import WorldSpec
from dsa_runtime.commands.machine import describe_machine


def commit() -> str:
    """The checked-out commit, with "+" if the source was changed since; "unknown" outside a checkout."""

    def git(*command: str) -> str:
        root = Path(__file__).parent
        return subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def json_line(bench: str, given: Sequence[str], spec: WorldSpec, **figures: Any) -> str:
    """The result of `python -m tests.bench.bench_NAME GIVEN` as one line of JSON, with what it was measured on."""
    line = {
        "bench": bench,
        "command": shlex.join(["python", "-m", f"tests.bench.bench_{bench}", *given]),
        "commit": commit(),
        "machine": describe_machine(),
        "world": {"name": spec.name, "version": spec.version},
        **figures,
    }
    return json.dumps(line, allow_nan=False)
