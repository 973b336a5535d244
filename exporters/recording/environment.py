"""What the recorder needs from an environment. Adapters (ViZDoom, the MuJoCo arm, any Gymnasium one) implement it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np


@dataclass(frozen=True)
class Target:
    """Something on screen a scripted player may aim at.

    `offset` (signed, 0 at the centre, +0.5 at the right edge) and `width` are fractions of the picture's width,
    `area` of the whole picture.
    """

    name: str
    offset: float
    width: float
    area: float


@dataclass(frozen=True)
class Observation:
    """One picture with what the simulator knows about it.

    frame: uint8[H, W, 3], owned by the caller. state: float32[S], named by `Environment.state_names`.
    targets: privileged information for scripted players only; it is never written to disk.
    native: what the environment itself calls its observation, for players written for it; never written either.
    """

    frame: np.ndarray
    state: np.ndarray
    targets: Sequence[Target] = ()
    native: Any = None


@dataclass(frozen=True)
class Transition:
    """The result of one step. When `cut`, the environment was reset and `observation` starts a new life."""

    observation: Observation
    reward: float
    cut: bool


@runtime_checkable
class Environment(Protocol):
    """A resettable, stepping environment with fixed frame size and one action space.

    `frame`, `action_space`: the same JSON objects that a WorldSpec carries. Equal seeds and actions give equal
    frames. An action is an int for Discrete spaces, else an array of the space's shape.
    """

    frame: dict[str, Any]
    action_space: dict[str, Any]
    state_names: tuple[str, ...]

    def reset(self, seed: int) -> Observation: ...

    def step(self, action: Any) -> Transition: ...

    def close(self) -> None: ...
