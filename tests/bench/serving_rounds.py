"""What `bench_serving` has measured: lanes, their rounds, and tables of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dsa_runtime.report.table import table
from tests.bench.wire_programs import LANGUAGES

QUANTILES = {"p50": 0.5, "p99": 0.99, "p99_9": 0.999}


@dataclass(frozen=True)
class Lane:
    """Who plays which world in which way."""

    client: str
    """`npy`, `python` or another language."""
    size: str
    frames: str
    curve: bool

    @property
    def name(self) -> str:
        return f"{self.client} {self.size} {self.frames}{' curve' if self.curve else ''}"


@dataclass(frozen=True)
class Round:
    """Quantiles over the ticks of one round, in ms; programs do not say all."""

    trip: Mapping[str, float]
    tick: Mapping[str, float]
    added: Mapping[str, float]


def quantiles(values: np.ndarray) -> dict[str, float]:
    """Nearest ranks, so that each was really measured."""
    found = np.quantile(values, list(QUANTILES.values()), method="inverted_cdf").tolist()
    return dict(zip(QUANTILES, found, strict=True))


def summary(lane: Lane, rounds: Sequence[Round]) -> dict[str, Any]:
    """Medians over the rounds, and the rounds."""
    return {
        **vars(lane),
        "round_trip_ms": _medians([one.trip for one in rounds]),
        "tick_ms": _medians([one.tick for one in rounds]),
        "added_ms": _medians([one.added for one in rounds]),
        "added_ms_by_round": [one.added for one in rounds],
    }


def compare(rounds: Mapping[Lane, Sequence[Round]]) -> list[dict[str, Any]]:
    """What the Python client's lanes add, through what `npy` adds for the same picture: medians of rounds' ratios."""
    ratios = []
    for lane, ours in rounds.items():
        if lane.client != "python":
            continue
        theirs = rounds[Lane("npy", lane.size, "npy", False)]
        each = {
            name: [one.added[name] / other.added[name] for one, other in zip(ours, theirs, strict=True)]
            for name in QUANTILES
        }
        ratios.append({**vars(lane), "ratio": {name: float(np.median(values)) for name, values in each.items()},
                       "ratios_by_round": each})  # fmt: skip
    return ratios


def text(rows: Sequence[Mapping[str, Any]]) -> str:
    """All lanes for reading."""
    header = ("client", "frame", "as", "curve", "round trip p50 ms", "tick p50 ms", "added p50", "p99", "p99.9 ms")
    return table(
        header,
        [
            (
                row["client"], row["size"], row["frames"], "on" if row["curve"] else "off",
                row["round_trip_ms"]["p50"], row["tick_ms"]["p50"], *(_figure(row, name) for name in QUANTILES),
            )
            for row in rows
        ],
    )  # fmt: skip


def ratio_text(ratios: Sequence[Mapping[str, Any]]) -> str:
    """The comparison for reading."""
    if not ratios:
        return "no ratio without the Python client"
    return table(
        ("added latency, ours / npy", "as", "curve", "p50", "p99", "p99.9"),
        [
            (one["size"], one["frames"], "on" if one["curve"] else "off", *one["ratio"].values())
            for one in ratios
        ],
    )  # fmt: skip


def _figure(row: Mapping[str, Any], name: str) -> float | str | None:
    value = row["added_ms"].get(name)
    return f"~{value:.3f}" if value is not None and row["client"] in LANGUAGES else value


def _medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.median([one[name] for one in rounds])) for name in rounds[0]}
