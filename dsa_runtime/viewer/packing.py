"""Packing: pictures, the decisions that made them, and files, as the binary messages of the page's WebSocket.

Numbers are little-endian; `PAGE.md` has the keys of the JSON.

    offset  type      what
    0       4 bytes   "DSAV"
    4       uint8     version, 1
    5       uint8     kind: 1 ticks, 2 pictures that no tick made, 3 a file
    6       uint16    lanes (0 for a file)
    8       uint32    bytes of JSON
    12      uint16    height (0 for a file)
    14      uint16    width
    16      JSON      UTF-8, one object
    ...     pixels    uint8[lanes, pictures, height, width, 3], RGB; for a file its bytes

`pictures` is 1, unless the JSON says otherwise: where a tick has several, those of a lane are all here, oldest first.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..tick import Tick
from .words import sentence

MAGIC = b"DSAV"
VERSION = 1
TICKS, PICTURES, FILE = 1, 2, 3
HEADER = struct.Struct("<4sBBHIHH")


def pack_ticks(
    ticks: Sequence[Tick], schedule_steps: int, stamp: float | None, more: Mapping[str, Any] | None = None
) -> bytes:
    """One tick of each lane, with all its pictures.

    stamp   of the input that was held, as the page gave it; None before the first
    more    for the head
    """
    pictures = len(ticks[0].frames)
    head = {"stamp": stamp, "lanes": [describe(tick, schedule_steps) for tick in ticks], **(more or {})}
    if pictures > 1:
        head["pictures"] = pictures
    return _pack(TICKS, head, [tick.frames for tick in ticks])


def pack_pictures(pictures: Sequence[np.ndarray], head: dict[str, Any]) -> bytes:
    """Where each lane stands: `uint8[height, width, 3]`, all of one size."""
    return _pack(PICTURES, head, pictures)


def pack_file(name: str, content: bytes) -> bytes:
    """A file that the browser shall save."""
    head = _json({"name": name})
    return HEADER.pack(MAGIC, VERSION, FILE, 0, len(head), 0, 0) + head + content


def describe(tick: Tick, schedule_steps: int) -> dict[str, Any]:
    """A tick without its pixels, as plain JSON values. Times in milliseconds; infinite ones are null."""
    latency = tick.latency_ms
    return {
        "tick": tick.tick,
        "steps": tick.steps,
        "confidence": round(float(tick.confidence), 4),
        "confidences": [round(float(confidence), 4) for confidence in tick.confidences],
        "threshold": None if tick.threshold is None else round(float(tick.threshold), 4),
        "stopped_by": tick.stopped_by,
        "budget": _finite(tick.budget_ms),
        "slack": _finite(tick.slack_ms),
        "status": tick.status,
        "latency": {
            "wait": _ms(latency["wait"]),
            "denoise": [_ms(cost) for cost in latency["denoise"]],
            "abandoned": _ms(latency["abandoned"]),
            "decode": _ms(latency["decode"]),
            "sdk": _ms(latency["sdk"]),
            "total": _ms(latency["total"]),
        },
        "words": sentence(tick, schedule_steps),
    }


def _pack(kind: int, head: dict[str, Any], pictures: Sequence[np.ndarray]) -> bytes:
    """`pictures` are those of each lane, `uint8[height, width, 3]` or `uint8[pictures, height, width, 3]`."""
    height, width, _ = pictures[0].shape[-3:]
    text = _json(head)
    header = HEADER.pack(MAGIC, VERSION, kind, len(pictures), len(text), height, width)
    return b"".join([header, text, *(np.ascontiguousarray(picture).tobytes() for picture in pictures)])


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()


def _finite(ms: float) -> float | None:
    return None if math.isinf(ms) else _ms(ms)


def _ms(ms: float) -> float:
    return round(ms, 3)
