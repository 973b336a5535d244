"""Response to actions at checkpoints of a long run: trials held in forks shortly before each, and what has changed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from exporters.evaluation.drift.free_play import FreePlay
from exporters.evaluation.interval import interval, share
from exporters.evaluation.response.trials import Trials

_QUANTILE = 1.959964  # of the normal distribution, for 95 %
FEWEST_SESSIONS = 3
"""From so many on a change is one of sessions like these."""


@dataclass(frozen=True)
class Moments:
    """n starts: the moments of all sessions.

    shares: float64[n], of the trials asked at each start those that were obeyed. sessions: int64[n], whose it is.
    """

    shares: np.ndarray
    sessions: np.ndarray

    def share(self) -> dict[str, float]:
        """As `interval.share`, where a start is one case."""
        if not len(self.shares):
            return share(np.empty(0, dtype=bool))
        return {**dict(zip(("share", "low", "high"), _wilson(self), strict=True)), "cases": len(self.shares)}

    def by_session(self) -> dict[int, float]:
        """The mean share of each session."""
        return {int(one): float(self.shares[self.sessions == one].mean()) for one in np.unique(self.sessions)}


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
            by_name = {name: share(stacked[..., i][asked[..., i]] > 0.5) for i, name in enumerate(self._trials.names)}
            moment, session = np.nonzero(asked.any(axis=2))
            known = stacked[moment, session]
            units.append(Moments(np.nanmean(known, axis=1) if len(known) else np.empty(0), session))
            row = {"tick": checkpoint, "moments": len(known), "trials": by_name, "all": units[-1].share()}
            rows.append({**row, "difference": difference(units[0], units[-1]) if len(units) > 1 else None})
        return {"trials": list(self._trials.names), "hold": self._hold, "checkpoints": rows}


def difference(first: Moments, later: Moments) -> dict[str, Any] | None:
    """Share of `later` minus share of `first` in percentage points, with a 95 % interval; None without moments.

    `sessions`: how many were asked both times. Of three or more: Student's interval of the sessions' own differences,
    which speaks of sessions like these. It is never narrower than the one for fewer, which speaks of these sessions
    alone: Newcombe's, from Wilson's of both. A bootstrap would say "+0.0 .. +0.0" of two full marks.
    """
    if not len(first.shares) or not len(later.shares):
        return None
    before, after = first.by_session(), later.by_session()
    changes = np.asarray([after[session] - before[session] for session in sorted(before.keys() & after.keys())])
    (p, low, high), (q, least, most) = _wilson(first), _wilson(later)
    paired = {"sessions": len(changes)}
    points = float(changes.mean()) if len(changes) >= FEWEST_SESSIONS else q - p
    below, above = math.hypot(q - least, high - p), math.hypot(most - q, p - low)
    if len(changes) >= FEWEST_SESSIONS:
        half = interval(changes).high - points
        below, above = max(below, half), max(above, half)
    return {"points": 100 * points, "low": 100 * (points - below), "high": 100 * (points + above), **paired}


def _wilson(moments: Moments) -> tuple[float, float, float]:
    """Share and its 95 % interval, with as many cases as would scatter like the starts do, and no more than starts.

    The trials of one start share all that came before and are no independent cases.
    """
    share, count = float(moments.shares.mean()), len(moments.shares)
    scatter = float(moments.shares.var(ddof=1)) / count if count > 1 else 0.0
    cases = share * (1 - share) / scatter if scatter > 0 else count
    cases = min(max(cases, 1.0), count)
    square = _QUANTILE**2 / cases
    middle, half = share + square / 2, _QUANTILE * math.sqrt(share * (1 - share) / cases + square / (4 * cases))
    return share, max((middle - half) / (1 + square), 0.0), min((middle + half) / (1 + square), 1.0)
