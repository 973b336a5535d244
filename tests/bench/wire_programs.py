"""The clients of bindings/wire/ as programs, built for speed as their users would."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[2] / "bindings" / "wire"
LANGUAGES = ("c", "cpp", "csharp", "javascript", "rust")
_DEBIAN_CRATES = Path("/usr/share/cargo/registry")
_ROUND_TRIP = re.compile(r"round_trip_us_p(\d+)=(\d+)")
_PATIENCE_S = 600.0


class NotBuilt(Exception):
    """A program could not be built here; says why."""


class ProgramFailed(Exception):
    """A program has not played to the end as it should; says why."""


def build(language: str, folder: Path) -> list[str]:
    """How the program is called, once it is built in `folder`. Raises `NotBuilt`."""
    folder.mkdir()
    program = str(folder / "dsa_client")
    if language == "c":
        source = str(SOURCES / "c" / "dsa_client.c")
        _run(["cc", "-std=c11", "-O2", source, "-o", program, "-lzmq", "-lmsgpackc"], folder)
        return [program]
    if language == "cpp":
        source = str(SOURCES / "cpp" / "dsa_client.cpp")
        _run(["c++", "-std=c++17", "-DMSGPACK_NO_BOOST", "-O2", source, "-o", program, "-lzmq"], folder)
        return [program]
    if language == "csharp":
        source = str(SOURCES / "csharp" / "DsaClient.cs")
        _run(["mcs", "-optimize", "-langversion:7", source, f"-out:{program}.exe"], folder)
        return ["mono", f"{program}.exe"]
    if language == "javascript":
        _copy("javascript", folder, "dsa_client.js", "package.json")
        _run(["npm", "install", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund"], folder)
        return ["node", str(folder / "dsa_client.js")]
    _copy("rust", folder, "dsa_client.rs", "Cargo.toml")
    if _DEBIAN_CRATES.is_dir():
        (folder / ".cargo").mkdir()
        source = f'[source.crates-io]\nreplace-with = "debian"\n[source.debian]\ndirectory = "{_DEBIAN_CRATES}"\n'
        (folder / ".cargo" / "config.toml").write_text(source)
    _run(["cargo", "build", "--release"], folder)
    return [str(folder / "target" / "release" / "dsa_client")]


def round_trip_us(command: Sequence[str], arguments: Sequence[str], environment: Mapping[str, str]) -> dict[str, float]:
    """Let a program play; the quantiles of its round trips by their digits, such as "50" and "99".

    Raises `ProgramFailed`.
    """
    found = subprocess.run(
        [*command, *arguments], env={**os.environ, **environment}, capture_output=True, text=True, timeout=_PATIENCE_S
    )
    if found.returncode:
        raise ProgramFailed(f"status {found.returncode}: {found.stderr.strip()}")
    if "recoveries=0 " not in found.stdout:
        raise ProgramFailed(f"lost its session: {found.stdout.strip()}")
    return {digits: float(value) for digits, value in _ROUND_TRIP.findall(found.stdout)}


def _copy(language: str, folder: Path, *files: str) -> None:
    for file in files:
        shutil.copy(SOURCES / language / file, folder)


def _run(command: list[str], folder: Path) -> None:
    if not shutil.which(command[0]):
        raise NotBuilt(f"no {command[0]}")
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_PATIENCE_S)
    if found.returncode:
        raise NotBuilt(f"{command[0]}: {(found.stderr or found.stdout).strip().splitlines()[-1][:200]}")
