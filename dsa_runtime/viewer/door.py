"""Door: which requests come from the page that this server gave out.

A browser sends any page's requests to 127.0.0.1, and a WebSocket may be opened across origins. So a request must name
this server as its host, which another site's page cannot make it do even if its name is rebound to 127.0.0.1, and a
WebSocket must come from a page of this server. A server that other machines reach has a token besides.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from dataclasses import dataclass

_TOKEN_BYTES = 16
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True)
class Door:
    """Refusals are one line for people; None lets in."""

    host: str
    """As asked for on the command line."""
    port: int
    token: str | None
    """None on a loopback address."""

    @classmethod
    def of(cls, host: str, port: int) -> Door:
        """With a fresh token where other machines can knock."""
        return cls(host, port, None if is_loopback(host) else secrets.token_urlsafe(_TOKEN_BYTES))

    @property
    def is_anywhere(self) -> bool:
        """Whether it listens at every address of this machine."""
        return self.host in _ANYWHERE

    @property
    def url(self) -> str:
        """What to open on this machine."""
        return self.url_at(_ANYWHERE.get(self.host, self.host))

    def url_at(self, name: str) -> str:
        """What to open where this machine has that name or address."""
        name = f"[{name}]" if ":" in name else name
        return f"http://{name}:{self.port}/" + (f"?token={self.token}" if self.token else "")

    def refuse_host(self, host: str) -> str | None:
        """For every request: its `Host` header."""
        if self.token is not None or host.lower() in self._hosts:
            return None
        return f"this server is {self.url}, not {host[:80]!r}"

    def refuse_token(self, token: str) -> str | None:
        """For what is not the same for everybody: the page, and its WebSocket."""
        if self.token is None or hmac.compare_digest(token.encode(), self.token.encode()):
            return None
        return "open the address that `dsa play` printed: the token in it is missing or wrong"

    def refuse_origin(self, origin: str | None, host: str) -> str | None:
        """For a WebSocket: its `Origin` header, beside `Host`."""
        if origin is not None and origin.lower() == f"http://{host.lower()}":
            return None
        return f"pages of {origin and origin[:80]!r} may not drive this server"

    @property
    def _hosts(self) -> set[str]:
        names = {"127.0.0.1", "localhost", "[::1]", f"[{self.host}]" if ":" in self.host else self.host}
        return {f"{name}:{self.port}" for name in names} | (names if self.port == 80 else set())


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address. A name other than `localhost` may be anything."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
