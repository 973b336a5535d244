"""BatchCosts: what a round costs, by how many rows it has, and what lies between two rounds."""

from __future__ import annotations

from time import perf_counter_ns

from .latency import SlidingQuantile

_WINDOW = 240


class BatchCosts:
    """Recent costs in ms per stage and number of rows. One thread at a time."""

    def __init__(self) -> None:
        self._known: dict[str, dict[int, SlidingQuantile]] = {}
        self._between = SlidingQuantile(_WINDOW)
        self._ended_ns: int | None = None

    def record(self, stage: str, rows: int, cost_ms: float) -> None:
        """Enter one measured cost."""
        sizes = self._known.setdefault(stage, {})
        if rows not in sizes:
            sizes[rows] = SlidingQuantile(_WINDOW)
        sizes[rows].add(cost_ms)

    def quantile(self, stage: str, rows: int, q: float) -> float | None:
        """Cost in ms that the share `q` of recent runs stayed within; None while nothing is known of the stage.

        A size that was never run is reckoned from the nearest one that was, in proportion if that is smaller: rows in
        company are cheaper than that.
        """
        sizes = self._known.get(stage)
        if not sizes:
            return None
        nearest = min(sizes, key=lambda size: (abs(size - rows), size))
        return sizes[nearest].quantile(q) * max(1.0, rows / nearest)

    def begin(self) -> None:
        """A round begins."""
        if self._ended_ns is not None:
            self._between.add((perf_counter_ns() - self._ended_ns) * 1e-6)
            self._ended_ns = None

    def end(self) -> None:
        """A round has ended."""
        self._ended_ns = perf_counter_ns()

    def pause(self) -> None:
        """What lies between the last round and the next is no work."""
        self._ended_ns = None

    def between(self, q: float) -> float:
        """Milliseconds between two rounds that the share `q` of recent ones stayed within; 0 while nothing is known."""
        return self._between.quantile(q) if len(self._between) else 0.0
