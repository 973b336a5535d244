"""One recording made elsewhere, as the converter takes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Source:
    """N + 1 consecutive pictures and the N actions between them."""

    where: str
    """For errors."""
    actions: np.ndarray
    """As a dataset has them; actions[i] was taken on picture i and led to the next."""
    reward: np.ndarray
    """float32[N]."""
    pictures: Callable[[], Iterator[np.ndarray]]
    """Reads them anew, in order: N + 1 times uint8[H, W, 3], or an error that says what is missing."""

    @property
    def steps(self) -> int:
        return len(self.actions)


@dataclass(frozen=True)
class Recordings:
    """All that is converted into one dataset."""

    sources: list[Source]
    fps: float
    action_space: dict[str, object]
    origin: str
    """What and where they were, for the dataset's description."""
    licence: str | None = None
    """If they say it themselves."""
