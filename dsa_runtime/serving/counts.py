"""Counts: what a server has done since it started."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from time import monotonic

from ..tick import Tick


@dataclass
class Counts:
    """Plain numbers, for the reply to `stats`."""

    opened: int = 0
    reaped: int = 0
    refused: int = 0
    requests: int = 0
    errors: int = 0
    ticks: int = 0
    late: int = 0
    repeated: int = 0
    skipped: int = 0
    started: float = field(default_factory=monotonic)

    def tick(self, tick: Tick) -> None:
        """Enter one."""
        self.ticks += 1
        if tick.status != "ok":
            setattr(self, tick.status, getattr(self, tick.status) + 1)

    def fields(self) -> dict[str, int]:
        """By name, and since how long."""
        counted = asdict(self)
        uptime_s = monotonic() - counted.pop("started")
        return {**counted, "uptime_ms": round(uptime_s * 1000)}
