"""What is there to build clients with."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def require(program: str, package: str) -> None:
    """Skip where a program is missing; `package` is Debian's that has it."""
    if not shutil.which(program):
        pytest.skip(f"no {program} (Debian: {package})")


def require_headers(compiler: list[str], folder: Path, headers: dict[str, str]) -> None:
    """Skip where a header is missing; `headers` says which of Debian's packages has it."""
    for header, package in headers.items():
        probe = folder / "probe.cpp"
        probe.write_text(f"#include <{header}>\n")
        if subprocess.run([*compiler, "-fsyntax-only", str(probe)], capture_output=True).returncode:
            pytest.skip(f"no {header} (Debian: {package})")
