"""The compiled operators: where they are, and what they can do."""

from __future__ import annotations

import ctypes
import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .build import LIBRARY, REPORT, source_digest

VARIABLE = "DSA_OPS_LIBRARY"
"""Environment variable: the path of another library, or `none` to do without."""


class LibraryMissing(Exception):
    """There is no operator library to use. The text says why, and what would help."""


@dataclass(frozen=True)
class OperatorLibrary:
    """A library that can be loaded. Register it with `onnxruntime.SessionOptions.register_custom_ops_library(path)`."""

    path: str
    version: int
    """Of the operators: it has this one and all before it (`schema.VERSION` when it was compiled)."""
    instruction_set: str
    """What the CPU kernels use here: `generic`, `avx2` or `avx512`."""
    cuda: str
    """What the CUDA kernels were compiled with and for; empty without them."""


def find() -> OperatorLibrary:
    """The library that was compiled with this installation, or the one that `DSA_OPS_LIBRARY` names.

    Raises `LibraryMissing`.
    """
    return _open(os.environ.get(VARIABLE))


@functools.cache
def _open(override: str | None) -> OperatorLibrary:
    if override is not None and override.lower() == "none":
        raise LibraryMissing(f"{VARIABLE} is {override!r}")
    folder = Path(__file__).parent
    path = Path(override).expanduser().resolve() if override else folder / LIBRARY
    if not path.is_file():
        raise LibraryMissing(f"{VARIABLE}: {path}: no such file" if override else _why_not_built(folder))
    try:
        library = ctypes.CDLL(str(path))
        found = OperatorLibrary(
            str(path), library.dsa_ops_version(), _text(library.dsa_ops_instruction_set), _text(library.dsa_ops_cuda)
        )
        source = _text(library.dsa_ops_source)
    except (OSError, AttributeError) as error:
        raise LibraryMissing(f"{path}: cannot be loaded: {error}") from None
    if not override and source != source_digest():
        raise LibraryMissing(f"{path}: of other sources than these; `python -m dsa_runtime.ops.build` compiles it anew")
    return found


def without_cuda() -> str:
    """Why the library that was compiled with this installation has no CUDA kernels."""
    return str(_report(Path(__file__).parent).get("cuda", "left out"))


def _text(function: Any) -> str:
    function.restype = ctypes.c_char_p
    content: bytes = function()
    return content.decode()


def _why_not_built(folder: Path) -> str:
    problem = _report(folder).get("problem")
    return f"not built: {problem}" if problem else "not built; `python -m dsa_runtime.ops.build` compiles it"


def _report(folder: Path) -> dict[str, Any]:
    try:
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) else {}
