"""What a server holds at a moment, and whether it holds more and more. Linux only."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

RETURNING = ("sessions", "slots", "rings", "sockets", "files", "threads")
"""What has to come back to where it was, once every session is closed and every client gone. The threads of a world are
kept for later: there may be as many more as sessions have been opened and stepped at the same time."""
_BLOCKS = 12
_MB = 1e6
# Two-sided 95 % quantiles of Student's t for 1 ... 10 degrees of freedom.
_T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)


@dataclass(frozen=True)
class Level:
    """A look at a server."""

    at_s: float
    """Since the start."""
    rss_mb: float
    threads: int
    files: int
    """Open descriptors of any kind."""
    sockets: int
    rings: int
    """Shared-memory files."""
    sessions: int
    slots: int
    """Of the frame caches, in use."""
    ticks: int
    """Made since the server was started."""


def look(pid: int, at_s: float, stats: Mapping[str, Any]) -> tuple[Level, set[str]]:
    """The level, and the paths of the shared-memory files."""
    process = Path("/proc", str(pid))
    targets = []
    for descriptor in os.listdir(process / "fd"):
        try:
            targets.append(os.readlink(process / "fd" / descriptor))
        except FileNotFoundError:  # closed meanwhile
            continue
    rings = {target.removesuffix(" (deleted)") for target in targets if ".ring" in target}
    resident = int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    level = Level(
        at_s=at_s,
        rss_mb=resident / _MB,
        threads=len(os.listdir(process / "task")),
        files=len(targets),
        sockets=sum(target.startswith("socket:") for target in targets),
        rings=len(rings),
        sessions=stats["sessions"],
        slots=stats["slots"],
        ticks=stats["ticks"],
    )
    return level, rings


def leaks(before: Level, after: Level, kept_threads: int) -> dict[str, list[int]]:
    """What there is more of than before, and for threads than may be kept: before and after."""
    most = {name: getattr(before, name) for name in RETURNING}
    most["threads"] += kept_threads
    return {
        name: [getattr(before, name), getattr(after, name)] for name in RETURNING if getattr(after, name) > most[name]
    }


@dataclass(frozen=True)
class Trend:
    """Of memory, in MB per hour."""

    slope: float
    error: float
    """Half of the 95 % interval."""


def trend(levels: Sequence[Level]) -> Trend | None:
    """The straight line that fits resident memory best. None for fewer than 3 levels, which have no error.

    Neighbouring levels are alike (the same sessions are open), so the line goes through the means of up to 12 blocks,
    and its error comes from how far those lie off it.
    """
    if len(levels) < 3:
        return None
    blocks = np.array_split(np.array([(one.at_s / 3600, one.rss_mb) for one in levels]), min(_BLOCKS, len(levels)))
    hours, memory = np.array([block.mean(axis=0) for block in blocks]).T
    away = hours - hours.mean()
    slope = float(away @ memory / (away @ away))
    rest = memory - memory.mean() - slope * away
    freedom = len(blocks) - 2
    deviation = math.sqrt(float(rest @ rest) / freedom / float(away @ away))
    return Trend(slope, _T95[freedom - 1] * deviation)
