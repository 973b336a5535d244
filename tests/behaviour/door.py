"""Door: a way to a session of a world. What a session does must not depend on which one it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dsa_runtime import RemoteSession, Session, WorldSpec

AnySession = Session | RemoteSession


@dataclass(frozen=True)
class Door:
    """One of the ways. Sessions take seeds and the keyword arguments of `World.session` that all ways have."""

    name: str
    spec: WorldSpec
    session: Callable[..., Any]
    """Opens an `AnySession`."""
