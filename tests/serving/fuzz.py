"""Fuzz: messages that are wrong in some way."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import msgpack

from dsa_runtime.serving.wire import MAGIC
from tests.serving.golden_messages import hexadecimal


def fuzz(rng: random.Random, epoch: int, sids: list[int]) -> list[bytes]:
    """A message that is wrong in some way, or by chance is not."""
    how = rng.randrange(5)
    if how == 0:
        return [rng.randbytes(rng.randrange(80)) for _ in range(rng.randrange(1, 5))]
    if how == 1:  # a good one, damaged
        parts = [bytearray.fromhex(part) for part in rng.choice(list(GOLDEN.values()))]
        for _ in range(rng.randrange(1, 4)):
            part = rng.choice(parts)
            part[rng.randrange(len(part))] ^= 1 << rng.randrange(8)
        return [bytes(part) for part in parts]
    if how == 2:  # cut short, or with parts twice
        parts = [bytearray.fromhex(part) for part in rng.choice(list(GOLDEN.values()))]
        index = rng.randrange(len(parts))
        parts[index] = parts[index][: rng.randrange(len(parts[index]))]
        return [bytes(part) for part in rng.choices(parts, k=len(parts))]
    # Well-formed, of this life and about its sessions, with values of all kinds.
    id = next(GROWING) if rng.random() < 0.8 else rng.randrange(2 ** rng.randrange(1, 20))
    sid = rng.choice([*sids, rng.randrange(2**64)])
    header: dict[str, Any] = {"t": rng.choice(TYPES), "id": id, "epoch": epoch, "sid": sid}
    for name, usual in FIELDS.get(header["t"], {}).items():
        if rng.random() < 0.9:
            header[name] = usual(rng) if rng.random() < 0.8 else rng.choice(VALUES)(rng)
    if rng.random() < 0.2:
        header[rng.choice(["colour", "bufs", "epoch", "id", "t"])] = rng.choice(VALUES)(rng)
    parts = [MAGIC, msgpack.packb(header)]
    if rng.random() < 0.1:
        header["bufs"] = [{"n": "snapshot", "d": "u1", "s": [40], "at": "part"}]
        parts = [MAGIC, msgpack.packb(header), rng.choice([rng.randbytes(40), b"DSASNAP\n" + rng.randbytes(32)])]
    return parts


GOLDEN = hexadecimal()
GROWING = itertools.count(1000)
TYPES = [
    "hello", "specs", "open", "step", "step", "step", "reset", "restore", "rewind", "snapshot", "fork", "configure",
    "prompt", "cancel", "ping", "stats", "launch", "handover", "_serve", "",
]  # fmt: skip
Draw = Callable[[random.Random], Any]


def key(rng: random.Random) -> int:
    return rng.randrange(1, 9)


def controller(rng: random.Random) -> dict[str, Any]:
    return {"policy": rng.choice(["gain", "fixed", "paper"]), "max_steps": rng.randrange(1, 5)}


def frames(rng: random.Random) -> str:
    return rng.choice(["part", "shm", "jpeg", "png"])


FIELDS: dict[str, dict[str, Draw]] = {
    "hello": {"min": lambda rng: 1, "max": lambda rng: 1, "features": lambda rng: ["shm"], "client": str},
    "specs": {"world": lambda rng: "tiny"},
    "open": {"key": key, "seed": key, "controller": controller, "frames": frames, "history": lambda rng: 2},
    "step": {"action": lambda rng: rng.randrange(4), "budget_us": lambda rng: -1, "steps": lambda rng: 2},
    "reset": {"seed": key},
    "rewind": {"ticks": lambda rng: 0},
    "fork": {"n": lambda rng: 1, "key": key},
    "configure": {"controller": controller, "frames": frames, "quality": lambda rng: 80},
    "prompt": {"prompt": lambda rng: "a storm"},
}
VALUES: list[Draw] = [
    lambda rng: None,
    lambda rng: rng.random() < 0.5,
    lambda rng: rng.randrange(6),
    lambda rng: rng.randrange(-(2**63), 2**64),
    lambda rng: rng.uniform(-2, 2),
    lambda rng: rng.choice(["tiny", "part", "shm", "png", "jpeg", "raise", "repeat", "\0", "x" * 300, "é"]),
    lambda rng: rng.randbytes(rng.randrange(20)),
    lambda rng: [rng.randrange(3) for _ in range(rng.randrange(5))],
    lambda rng: [[[]], "a", 1.5],
    lambda rng: {"policy": rng.choice(["gain", "fixed", "paper", 7]), "max_steps": rng.randrange(-1, 5)},
    lambda rng: {"target_load": rng.uniform(-1, 2)},
    lambda rng: {"rescue": rng.choice([True, None, 1]), "x": {}},
]
