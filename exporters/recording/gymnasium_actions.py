"""Actions of a Gymnasium space in the form that a dataset has, and back."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ActionMap:
    """How a space's actions are recorded: Discrete from 0 on, MultiBinary and Box as flat vectors."""

    space: dict[str, Any]
    """As in a WorldSpec or dataset."""
    shape: tuple[int, ...]
    """Of one action in the environment."""
    dtype: np.dtype
    start: int = 0
    """The environment's number of our action 0."""

    @staticmethod
    def of(native: Any, names: Sequence[str] = ()) -> ActionMap:
        """The map of a Gymnasium space. ValueError for a space, or for names, that do not fit a world."""
        import gymnasium

        spaces, start = gymnasium.spaces, 0
        found: dict[str, Any]
        if isinstance(native, spaces.Discrete):
            found, start = {"type": "Discrete", "n": int(native.n)}, int(native.start)
        elif isinstance(native, spaces.MultiBinary):
            found = {"type": "MultiBinary", "n": int(np.prod(native.shape))}
        elif isinstance(native, spaces.Box) and np.issubdtype(native.dtype, np.floating):
            low, high = (np.ravel(bound).astype(np.float64).tolist() for bound in (native.low, native.high))
            if not np.isfinite([low, high]).all():
                raise ValueError(
                    f"action_space: {native} has no bounds; give it some with"
                    " --wrapper MODULE:FUNCTION (gymnasium.wrappers.RescaleAction)"
                )
            if not all(a < b for a, b in zip(low, high, strict=True)):
                raise ValueError(f"action_space: {native} has components that cannot change; wrap them away")
            found = {"type": "Box", "low": low, "high": high}
        else:
            raise ValueError(
                f"action_space: {native} cannot be recorded, only Discrete, MultiBinary and Box of floats;"
                " turn it into one of them with --wrapper MODULE:FUNCTION"
            )
        count = len(found["low"]) if "low" in found else found["n"]
        found["names"] = list(names) or [f"action {i}" for i in range(count)]
        if len(found["names"]) != count or len(set(found["names"])) != count or not all(found["names"]):
            raise ValueError(
                f"names: {count} different ones, none of them empty, are needed for {native}, got {list(names)}"
            )
        if "low" in found:
            found["units"] = [""] * count
        return ActionMap(found, tuple(native.shape), np.dtype(native.dtype), start)

    def native(self, action: Any) -> Any:
        """A recorded action as the environment takes it."""
        if self.space["type"] == "Discrete":
            return int(action) + self.start
        if self.space["type"] == "Box":  # rounded to float32, a bound of 0.1 would lie outside a Box of float64
            action = np.clip(np.asarray(action, np.float64), self.space["low"], self.space["high"])
        return np.asarray(action, self.dtype).reshape(self.shape)

    def recorded(self, action: Any, who: str) -> Any:
        """An action of the environment's as it is recorded; a Box's is clipped. ValueError names the player `who`."""
        if self.space["type"] == "Discrete":
            try:
                index = operator.index(np.asarray(action).item()) - self.start
            except (TypeError, ValueError):
                raise ValueError(f"policy: {who} returned {action!r:.60}, expected an integer") from None
            if not 0 <= index < self.space["n"]:
                raise ValueError(f"policy: {who} returned {action!r}, which the environment has no action for")
            return index
        array = np.asarray(action)
        if array.shape != self.shape:
            raise ValueError(f"policy: {who} returned an action of shape {array.shape}, expected {self.shape}")
        if self.space["type"] == "MultiBinary":
            return (array.reshape(-1) != 0).astype(np.uint8)
        flat = array.reshape(-1).astype(np.float32)
        if not np.isfinite(flat).all():
            raise ValueError(f"policy: {who} returned {action!r}; NaN and infinity are no actions")
        return np.clip(flat, *(np.asarray(self.space[bound], np.float32) for bound in ("low", "high")))
