"""An action space for a table of recorded actions, and the actions in its form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..episode import DatasetError

DISCRETE, MULTI_BINARY, BOX = "discrete", "multibinary", "box"
_MOST_DISCRETE = 65536
"""Actions of a Discrete space that a world can have (`dsa_runtime.actions`)."""


@dataclass(frozen=True)
class ColumnChoice:
    """What the user says about the columns; all else is read from them."""

    space: str | None = None
    """Of `DISCRETE`, `MULTI_BINARY` and `BOX`."""
    columns: tuple[str, ...] = ()
    """Which to take, in this order; by default all."""
    low: float | None = None
    high: float | None = None
    """Bounds of a Box, for all columns; by default the least and greatest value of each."""

    def picked(self, names: Sequence[str], where: str) -> list[int]:
        """The places of the chosen columns."""
        unknown = [name for name in self.columns if name not in names]
        if unknown:
            raise DatasetError(f"columns: {where} has no {unknown[0]!r}; it has {', '.join(names)}")
        return [list(names).index(name) for name in self.columns or names]


def text_actions(
    tables: Sequence[np.ndarray], names: Sequence[str], choice: ColumnChoice
) -> tuple[dict[str, object], list[np.ndarray]]:
    """The space of tables of text, one str[rows, columns] per recording, and their actions.

    A single column of words or whole numbers is Discrete, several of 0 and 1 are MultiBinary, all else is a Box.
    """
    cells = np.concatenate(tables)
    try:
        values = cells.astype(np.float64)
    except ValueError:
        values = None
    kind = choice.space or _kind(values, len(names))
    if values is None:
        if kind != DISCRETE or len(names) != 1:
            raise DatasetError(f"actions: {_first_word(cells)!r} is not a number; only a single column may hold words")
        words, index = np.unique(cells[:, 0], return_inverse=True)
        _check_count(len(words))
        space: dict[str, object] = {"type": "Discrete", "n": len(words), "names": words.tolist()}
        return space, _back(index.astype(np.int64), tables)
    if kind == BOX:
        return box_actions([table.astype(np.float32) for table in tables], names, choice)
    if kind == DISCRETE:
        if len(names) != 1 or (values != values.astype(np.int64)).any() or values.min() < 0:
            raise DatasetError("actions: Discrete ones are a single column of words or of whole numbers from 0 on")
        count = int(values.max()) + 1
        _check_count(count)
        space = {"type": "Discrete", "n": count, "names": [f"action {i}" for i in range(count)]}
        return space, _back(values[:, 0].astype(np.int64), tables)
    if not np.isin(values, (0, 1)).all():
        raise DatasetError("actions: MultiBinary columns hold only 0 and 1")
    return {"type": "MultiBinary", "n": len(names), "names": list(names)}, _back(values.astype(np.uint8), tables)


def box_actions(
    tables: Sequence[np.ndarray], names: Sequence[str], choice: ColumnChoice
) -> tuple[dict[str, object], list[np.ndarray]]:
    """The Box of float32[rows, columns] per recording, and the same arrays."""
    values = np.concatenate(tables)
    if not np.isfinite(values).all():
        raise DatasetError("actions: NaN and infinity are no actions")
    low = values.min(axis=0) if choice.low is None else np.full(len(names), choice.low, np.float32)
    high = values.max(axis=0) if choice.high is None else np.full(len(names), choice.high, np.float32)
    for name, bottom, top in zip(names, low, high, strict=True):
        if not bottom < top:
            raise DatasetError(
                f"actions: {name!r} is always {top:g}; leave it out with --columns, or give --low and --high"
            )
    bounds = {"low": [float(value) for value in low], "high": [float(value) for value in high]}
    return {"type": "Box", **bounds, "names": list(names), "units": [""] * len(names)}, list(tables)


def _kind(values: np.ndarray | None, columns: int) -> str:
    if values is None:
        return DISCRETE
    whole = bool((values == np.round(values)).all() and values.min() >= 0)
    if columns == 1:
        return DISCRETE if whole else BOX
    return MULTI_BINARY if np.isin(values, (0, 1)).all() else BOX


def _check_count(count: int) -> None:
    if count > _MOST_DISCRETE:
        raise DatasetError(
            f"actions: {count} different ones are more than the {_MOST_DISCRETE} that a world can have; if they are"
            f" amounts, take --space {BOX}"
        )


def _first_word(cells: np.ndarray) -> str:
    for cell in cells.flat:
        try:
            float(cell)
        except ValueError:
            return str(cell)
    return ""


def _back(actions: np.ndarray, tables: Sequence[np.ndarray]) -> list[np.ndarray]:
    """One array per table again."""
    return np.split(actions, np.cumsum([len(table) for table in tables])[:-1])
