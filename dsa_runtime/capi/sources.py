"""The C sources of libdsa_runtime, wherever this package lies."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

HEADER = "dsa_runtime.h"
CALLS = "runtime/python_calls.h"
_INSTALLED = Path(__file__).parent / "sources"  # setup.py puts them there
_CHECKOUT = Path(__file__).parents[2] / "bindings" / "c"


def sources_folder() -> Path:
    """Where `dsa_runtime.h`, `common/` and `runtime/` are."""
    return _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT


def source_digest() -> str:
    """What both halves must agree on, the declarations without comments, as hexadecimal text: a library of other ones
    is not this package's."""
    digest = hashlib.blake2b(digest_size=8)
    for name in (HEADER, CALLS):
        text = re.sub(r"/\*.*?\*/", " ", (sources_folder() / name).read_text(encoding="utf-8"), flags=re.DOTALL)
        digest.update(" ".join(text.split()).encode())
    return digest.hexdigest()
