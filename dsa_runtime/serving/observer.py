"""Observer: what a server tells those who count and log."""

from __future__ import annotations

import hashlib
import logging

from ..tick import Tick

_LOG = logging.getLogger(__name__)


class Observer:
    """Override what is of interest. Called by one thread of the server at a time, `failed` by any: be quick, be
    thread-safe, and raise nothing."""

    def greeted(self, client: str) -> None:
        """A client has said hello: name and version, as it gave them."""

    def opened(self, sid: int, world: str) -> None:
        """A session has been opened or forked."""

    def closed(self, sid: int, reason: str) -> None:
        """A session has ended: it was `closed`, its lease has run out (`reaped`), or the server `stopped`."""

    def reaped(self, sid: int) -> None:
        """A session's lease has run out; `closed` follows."""

    def refused(self, code: str, problem: str) -> None:
        """A session was not opened: `capacity`, `busy` or `draining`."""

    def request(self, type: str, code: str, seconds: float) -> None:
        """A request was answered: `ok`, or by an error of this code; after so many seconds at the server."""

    def tick(self, tick: Tick) -> None:
        """A session has made a tick. Its pixels are about to be sent: do not keep or change them."""

    def failed(self, what: str, incident: int, error: Exception) -> None:
        """Something failed that nobody asked to fail. Peers are told no more than the number of the incident."""
        _LOG.error("incident %d: %s", incident, what, exc_info=error)


def label(sid: int) -> str:
    """What a session is called in logs and file names. Who knows its sid owns it, so that is never written down."""
    return hashlib.blake2b(sid.to_bytes(8, "little"), digest_size=8).hexdigest()
