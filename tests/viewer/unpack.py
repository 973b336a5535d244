"""The binary messages of the page, read by what PAGE.md says."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Unpacked:
    kind: str
    head: dict[str, Any]
    pictures: np.ndarray
    """`uint8[lanes, height, width, 3]`, of ticks with several pictures `uint8[lanes, pictures, height, width, 3]`."""
    rest: bytes


def unpack(message: bytes) -> Unpacked:
    magic, version, kind, lanes, count, height, width = struct.unpack_from("<4sBBHIHH", message)
    assert (magic, version) == (b"DSAV", 1)
    head, rest = json.loads(message[16 : 16 + count]), message[16 + count :]
    many = [head["pictures"]] if "pictures" in head else []
    pictures = np.frombuffer(rest if lanes else b"", np.uint8).reshape(lanes, *many, height, width, 3)
    return Unpacked({1: "ticks", 2: "pictures", 3: "file"}[kind], head, pictures, rest)
