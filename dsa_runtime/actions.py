"""Action spaces: what a caller may ask for in one tick, and how it becomes the graphs' action vector.

They mirror Gymnasium's spaces of the same names (which the runtime does not depend on) and add names and
units. Each has `width` (length of the encoded vector), `shape` (of one action as an array), `validate` and
`encode`.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import ActionError, WorldError


@dataclass(frozen=True)
class Discrete:
    """One of `n` actions, given as an integer in [0, n). Encoded one-hot."""

    n: int
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.n <= 65536:
            raise WorldError(f"n: must lie in 1..65536, got {self.n}")
        _check_names(self.names, self.n)

    @property
    def width(self) -> int:
        """Values that the world is given for an action, see `encode`."""
        return self.n

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an action as `validate` gives it back; `()` for a single number."""
        return ()

    def validate(self, action: Any) -> int:
        """The action as an `int`. Integers and numpy integers are accepted; floats and booleans are not."""
        if isinstance(action, (bool, np.bool_)):
            raise ActionError(f"expected an integer in 0..{self.n - 1}, got {action!r}")
        try:
            index = operator.index(action)
        except TypeError:
            raise ActionError(f"expected an integer in 0..{self.n - 1}, got {_describe(action)}") from None
        if not 0 <= index < self.n:
            raise ActionError(f"expected an integer in 0..{self.n - 1}, got {index}")
        return index

    def encode(self, action: Any) -> np.ndarray:
        """`float32[n]`, one-hot."""
        index = self.validate(action)
        encoded = np.zeros(self.n, np.float32)
        encoded[index] = 1.0
        return encoded


@dataclass(frozen=True)
class MultiBinary:
    """`n` independent buttons, given as `n` values that are 0 or 1. Encoded as floats."""

    n: int
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.n <= 65536:
            raise WorldError(f"n: must lie in 1..65536, got {self.n}")
        _check_names(self.names, self.n)

    @property
    def width(self) -> int:
        """Values that the world is given for an action, see `encode`."""
        return self.n

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an action as `validate` gives it back; `()` for a single number."""
        return (self.n,)

    def validate(self, action: Any) -> np.ndarray:
        """The action as `uint8[n]`."""
        array = _as_array(action, self.shape, "biu")
        if ((array != 0) & (array != 1)).any():
            raise ActionError(f"expected {self.n} values that are 0 or 1, got {_describe(action)}")
        return array.astype(np.uint8)

    def encode(self, action: Any) -> np.ndarray:
        """`float32[n]` of zeros and ones."""
        return self.validate(action).astype(np.float32)


@dataclass(frozen=True)
class Box:
    """Real values, each in [low, high]. Every component is mapped to [-1, 1] when encoded."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    names: tuple[str, ...]
    units: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.low) <= 65536:
            raise WorldError(f"low: must hold 1..65536 values, got {len(self.low)}")
        if len(self.high) != len(self.low):
            raise WorldError(f"high: expected {len(self.low)} values as in low, got {len(self.high)}")
        if not all(
            np.isfinite((low, high)).all() and low < high for low, high in zip(self.low, self.high, strict=True)
        ):
            raise WorldError("high: every value must be finite and greater than the one in low")
        _check_names(self.names, len(self.low))
        if len(self.units) != len(self.low):
            raise WorldError(f"units: expected {len(self.low)} strings, got {len(self.units)}")

    @property
    def width(self) -> int:
        """Values that the world is given for an action, see `encode`."""
        return len(self.low)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an action as `validate` gives it back; `()` for a single number."""
        return (len(self.low),)

    def validate(self, action: Any) -> np.ndarray:
        """The action as `float32[width]`, finite and inside the bounds."""
        array = _as_array(action, self.shape, "fiu").astype(np.float32)
        # Bounds are compared as float32: 0.1 given as float32 must not count as above a bound of 0.1.
        low, high = np.asarray(self.low, np.float32), np.asarray(self.high, np.float32)
        outside = ~((array >= low) & (array <= high))  # written so that NaN counts as outside
        if outside.any():
            first = int(np.argmax(outside))
            raise ActionError(
                f"component {first} ({self.names[first]}): expected a value in "
                f"[{self.low[first]}, {self.high[first]}], got {array[first]}"
            )
        return array

    def encode(self, action: Any) -> np.ndarray:
        """`float32[width]` in [-1, 1]."""
        array = self.validate(action)
        low, high = np.asarray(self.low, np.float32), np.asarray(self.high, np.float32)
        return (2.0 * (array - low) / (high - low) - 1.0).astype(np.float32)


ActionSpace = Discrete | MultiBinary | Box


def _as_array(action: Any, shape: tuple[int, ...], kinds: str) -> np.ndarray:
    try:
        array = np.asarray(action)
    except (ValueError, TypeError, OverflowError):
        raise ActionError(f"expected numbers of shape {shape}, got {_describe(action)}") from None
    if array.dtype.kind not in kinds or array.shape != shape:
        raise ActionError(f"expected numbers of shape {shape}, got {_describe(action)}")
    return array


def _describe(action: Any) -> str:
    if isinstance(action, np.ndarray):
        return f"an array {action.dtype}{list(action.shape)}"
    text = repr(action)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_names(names: tuple[str, ...], count: int) -> None:
    if len(names) != count:
        raise WorldError(f"names: expected {count} names, got {len(names)}")
    if len(set(names)) != count or not all(names):
        raise WorldError("names: must be different from each other and not empty")
