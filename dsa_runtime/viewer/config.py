"""ViewerConfig: what `dsa play` was asked for."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_PORT = 8420
PORTS = range(FIRST_PORT, FIRST_PORT + 10)
"""Tried one after the other where none was asked for."""


@dataclass(frozen=True)
class ViewerConfig:
    """Of the server, whatever it shows."""

    host: str = "127.0.0.1"
    """Another one than a loopback address is reached with a token only."""
    port: int | None = None
    """0 for any that is free; None for the first free one of `PORTS`."""
    tabs: int = 4
    """At a time; each has a session of its own, or two."""
    keep_s: float = 60.0
    """How long a tab that has gone is kept for the case that it comes back."""
