"""Recording: what was asked and decided in each tick. With the seed it reproduces every frame."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Decision:
    """One tick: the action as given, the decision taken, and what came of it."""

    action: Any
    steps: int
    threshold: float | None
    digest: str
    """Of the pixels, see `digest`."""


@dataclass
class Recording:
    """A session since its reset.

    Replay needs no clock: `session.reset(seed)`, then `session.step(action, steps=steps)` per decision.
    """

    world: str
    version: str
    seed: int
    decisions: list[Decision] = field(default_factory=list)


def digest(pixels: np.ndarray) -> str:
    """BLAKE2b-128 of the pixels' bytes in C order, as hexadecimal text."""
    return hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16).hexdigest()
