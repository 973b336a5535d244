"""The compiled operators: where they are, and what they can do."""

from __future__ import annotations

import ctypes
import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path

from .build import LIBRARY, REPORT

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
    path = Path(override) if override else folder / LIBRARY
    if not path.is_file():
        raise LibraryMissing(f"{VARIABLE}: {path}: no such file" if override else _why_not_built(folder))
    try:
        library = ctypes.CDLL(str(path))
        library.dsa_ops_instruction_set.restype = library.dsa_ops_cuda.restype = ctypes.c_char_p
        instruction_set, cuda = library.dsa_ops_instruction_set().decode(), library.dsa_ops_cuda().decode()
        return OperatorLibrary(str(path), library.dsa_ops_version(), instruction_set, cuda)
    except (OSError, AttributeError) as error:
        raise LibraryMissing(f"{path}: cannot be loaded: {error}") from None


def _why_not_built(folder: Path) -> str:
    try:
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        return f"not built: {report['problem']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "not built; `python -m dsa_runtime.ops.build` compiles it"
