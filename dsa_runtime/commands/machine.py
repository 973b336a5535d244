"""Machine: what the figures were measured on."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path


def describe_machine() -> dict[str, str | int]:
    """Processor, usable cores, system and the versions that matter to speed, as plain JSON values."""
    from ..engine import available_cores

    return {
        "cpu": _cpu_name(),
        "cores": available_cores(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "onnxruntime": version("onnxruntime") if installed("onnxruntime") else version("onnxruntime-gpu"),
        "operators": _operators(),
    }


def version(distribution: str) -> str:
    """The installed version of a distribution, or "not installed"."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def installed(distribution: str) -> bool:
    """Whether a distribution is installed."""
    return version(distribution) != "not installed"


def _operators() -> str:
    from ..ops.library import LibraryMissing, find

    try:
        return f"{find().version}, {find().instruction_set}"
    except LibraryMissing:
        return "none"


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
