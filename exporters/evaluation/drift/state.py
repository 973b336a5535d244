"""State read-out along a long run: are the things still there, once each, and does the arm still look like one?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from exporters.evaluation.state.probe import StateProbe, StateReading

_BINS = 40


@dataclass(frozen=True)
class StateReadout:
    """A probe used to the world's decoder, and real frames as that decoder draws them, uint8[M, H, W, 3]."""

    probe: StateProbe
    real: np.ndarray


class StateTrack:
    """What was read so far."""

    def __init__(self, readout: StateReadout, rows: np.ndarray | None = None) -> None:
        """rows: what an earlier part of the run has read (`rows`)."""
        self._readout = readout
        self._rows: list[np.ndarray] = [] if rows is None else list(rows)
        self._movers = [readout.probe.names.index(name) for name in readout.probe.columns.movers]

    def read(self, frames: np.ndarray) -> None:
        """frames: uint8[S, H, W, 3]."""
        self._rows.append(self._columns(self._readout.probe.read(frames)))

    def rows(self) -> np.ndarray:
        """float32[n, S, M + A]: presence of each mover, certainty of each angle."""
        width = len(self._movers) + len(self._readout.probe.columns.angles)
        return np.stack(self._rows) if self._rows else np.empty((0, 0, width), dtype=np.float32)

    def result(self, every: int) -> dict[str, Any]:
        """Means over stretches of ticks, read `every` so many, and of the real frames."""
        rows, movers = self.rows(), len(self._movers)
        parts = np.array_split(rows, min(_BINS, len(rows)))
        ends = np.cumsum([len(part) for part in parts]) * every
        real = self._columns(self._readout.probe.read(self._readout.real))

        def summary(values: np.ndarray) -> dict[str, Any]:
            flat = values.reshape(-1, values.shape[-1])
            means = flat.mean(axis=0).tolist()
            names = [*self._readout.probe.columns.movers, *self._readout.probe.columns.angles]
            return {
                "all_present": float((flat[:, :movers] > 0.5).all(axis=1).mean()),
                **dict(zip(names, means, strict=True)),
            }

        return {
            "movers": list(self._readout.probe.columns.movers),
            "angles": list(self._readout.probe.columns.angles),
            "real": summary(real),
            "stretches": [{"until_tick": int(end), **summary(part)} for end, part in zip(ends, parts, strict=True)],
        }

    def _columns(self, reading: StateReading) -> np.ndarray:
        """float32[B, M + A]."""
        present = reading.present[:, self._movers].astype(np.float32)
        return np.concatenate([present, reading.certainty.astype(np.float32)], axis=1)
