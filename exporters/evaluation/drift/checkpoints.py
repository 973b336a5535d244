"""Response to actions at checkpoints of a long run: trials held in forks shortly before each, and what has changed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from exporters.evaluation.drift.free_play import FreePlay
from exporters.evaluation.interval import share
from exporters.evaluation.response.trials import Trials

_QUANTILE = 1.959964  # of the normal distribution, for 95 %


@dataclass(frozen=True)
class Moments:
    """shares: float64[n], of the trials asked at each moment those that were obeyed. trials: asked in all."""

    shares: np.ndarray
    trials: int


class Checkpoints:
    """When to fork, and what the forks did. The session that is forked goes on as if nothing had been."""

    def __init__(
        self,
        ticks: Sequence[int],
        moments: int,
        spacing: int,
        hold: int,
        trials: Trials,
        hits: np.ndarray | None = None,
    ) -> None:
        """At `moments` ticks, `spacing` apart, up to each checkpoint. hits: float64[n, S, trials] of an earlier part of
        the run, for the first n of them."""
        self._trials, self._hold = trials, hold
        pairs = {(tick - back * spacing, tick) for tick in ticks for back in range(moments) if tick > back * spacing}
        self.when = sorted(pairs)
        """(tick at which is forked, its checkpoint), in the order of the ticks."""
        self._due = {at for at, _ in self.when}
        self._hits: dict[int, np.ndarray] = {}
        if hits is not None:
            ordered = sorted(self._due)
            self._hits = dict(zip(ordered[: len(hits)], hits, strict=True))

    def look(self, finished: int, play: FreePlay) -> None:
        """To be called after every tick, with the number of ticks finished."""
        if finished in self._due and finished not in self._hits:
            names = self._trials.names
            verdicts = [self._trials.obeyed(n, play.film(self._trials.action(n), self._hold)) for n in names]
            self._hits[finished] = np.stack(verdicts, axis=1)

    def hits(self) -> np.ndarray:
        """float64[n, S, trials] so far; 1, 0, or NaN where a trial could not be asked."""
        rows = [self._hits[at] for at in sorted(self._hits)]
        return np.stack(rows) if rows else np.empty((0, 0, len(self._trials.names)))

    def result(self) -> dict[str, Any]:
        """Shares per checkpoint and the difference of each to the first, in percentage points."""
        rows: list[dict[str, Any]] = []
        units: list[Moments] = []
        for checkpoint in sorted({checkpoint for _, checkpoint in self.when}):
            hits = [self._hits[at] for at, of in self.when if of == checkpoint and at in self._hits]
            if not hits:
                continue
            stacked = np.stack(hits)
            asked = ~np.isnan(stacked)
            every = stacked[asked] > 0.5
            by_name = {name: share(stacked[..., i][asked[..., i]] > 0.5) for i, name in enumerate(self._trials.names)}
            known = stacked.reshape(-1, stacked.shape[2])
            known = known[~np.isnan(known).all(axis=1)]
            units.append(Moments(np.nanmean(known, axis=1) if len(known) else np.empty(0), every.size))
            row = {"tick": checkpoint, "moments": len(known), "trials": by_name, "all": share(every)}
            rows.append({**row, "difference": difference(units[0], units[-1]) if len(units) > 1 else None})
        return {"trials": list(self._trials.names), "hold": self._hold, "checkpoints": rows}


def difference(first: Moments, later: Moments) -> dict[str, float] | None:
    """Share of `later` minus share of `first` in percentage points, with a 95 % interval; None without moments.

    Newcombe's interval, from Wilson's of both, with as many cases as would scatter like the moments do: the trials of
    one moment share a start and are no independent cases. A bootstrap would say "+0.0 .. +0.0" of two full marks.
    """
    if not len(first.shares) or not len(later.shares):
        return None
    (p, low, high), (q, least, most) = _wilson(first), _wilson(later)
    below, above = math.hypot(q - least, high - p), math.hypot(most - q, p - low)
    return {"points": 100 * (q - p), "low": 100 * (q - p - below), "high": 100 * (q - p + above)}


def _wilson(moments: Moments) -> tuple[float, float, float]:
    """Share and its 95 % interval."""
    share, count = float(moments.shares.mean()), len(moments.shares)
    scatter = float(moments.shares.var(ddof=1)) / count if count > 1 else 0.0
    cases = share * (1 - share) / scatter if scatter > 0 else moments.trials
    cases = min(max(cases, 1.0), moments.trials)
    square = _QUANTILE**2 / cases
    middle, half = share + square / 2, _QUANTILE * math.sqrt(share * (1 - share) / cases + square / (4 * cases))
    return share, (middle - half) / (1 + square), (middle + half) / (1 + square)
