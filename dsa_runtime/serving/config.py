"""ServerConfig: where a server listens, and what it grants."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from ..errors import ServingError
from .security import Access

_MOST_SESSIONS = 4096  # a reply must be able to list them
_LOCAL = ("ipc://", "tcp://127.", "tcp://[::1]", "tcp://localhost")


@dataclass(frozen=True)
class ServerConfig:
    """For `Server`. Raises `ServingError` for values that make no sense."""

    bind: str
    """`tcp://HOST:PORT` (port `*` for any) or `ipc:///PATH`; see `security`."""
    access: Access | None = None
    """Keys; None where only this machine can connect."""
    publish: str | None = None
    """Address for spectators; None for none."""
    record: Path | None = None
    """Folder for a recording of every session, written when it ends or starts over; None for none. A recording grows
    with every tick and is held in memory until then."""
    ring_folder: Path | None = None
    """For frames in shared memory; None for a folder of this user's under /dev/shm."""
    max_sessions: int = 64
    load_most: float = 1.0
    """Share of the time that sessions may be estimated to use; infinite for no limit. See `Admission`."""
    batched: bool = True
    """Whether sessions of a world share their engine calls; see `World.session`."""
    lease_ms: int = 10_000
    """Of a session whose client asks for none: it is closed if nothing is heard about it for so long."""
    lease_most_ms: int = 600_000
    history_most: int = 256
    """Ticks that a client may ask to be able to undo; each costs a slot of the frame cache."""
    message_bytes: int = 64 << 20
    """The largest part of a message that is taken in, such as a snapshot. A larger one costs the sender its
    connection."""
    drain_s: float = 10.0
    """The longest that a draining server waits for clients to fetch their sessions."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_sessions <= _MOST_SESSIONS:
            raise ServingError(f"max_sessions: must lie in 1..{_MOST_SESSIONS}, got {self.max_sessions}")
        if self.lease_ms < 1:
            raise ServingError(f"lease_ms: must be at least 1, got {self.lease_ms}")
        if self.lease_ms > self.lease_most_ms:
            raise ServingError(f"lease_ms: must not exceed lease_most_ms = {self.lease_most_ms}, got {self.lease_ms}")
        if self.history_most < 0:
            raise ServingError(f"history_most: must not be negative, got {self.history_most}")
        if not self.load_most > 0:
            raise ServingError(f"load_most: must be greater than 0, got {self.load_most}")
        if self.message_bytes < 1 << 16:
            raise ServingError(f"message_bytes: must be at least {1 << 16}, got {self.message_bytes}")
        if not 0 <= self.drain_s < math.inf:
            raise ServingError(f"drain_s: must be finite and not negative, got {self.drain_s}")

    @property
    def is_local(self) -> bool:
        """Whether clients are on this machine, so that shared memory is of use to them."""
        return self.bind.startswith(_LOCAL)
