"""Result: what a command found out, for people and for programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Result:
    """`document` holds plain JSON values for `--json`, `text` the same for reading."""

    document: dict[str, Any]
    text: str
