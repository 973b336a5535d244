"""Endpoint: metrics and health over HTTP, for Prometheus and whatever watches the process."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ..errors import ServingError

_REQUEST_S = 5.0  # for a request to arrive and its reply to be taken
_LOOK_S = 0.1  # between two looks whether it was closed


class Endpoint:
    """Answers `GET /metrics` and `GET /healthz` on threads of its own. Close it."""

    def __init__(
        self, address: str, metrics: Callable[[], tuple[str, bytes]], ailment: Callable[[], str | None]
    ) -> None:
        """address   "HOST:PORT"; ":PORT" and "PORT" mean the loopback address
        metrics   content type and text of `/metrics`
        ailment   what is wrong with the server, in a few words; None if it is well

        Raises `ServingError` for an address that is malformed or in use.
        """
        host, port = _parse(address)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        handler = type("Handler", (_Handler,), {"metrics": staticmethod(metrics), "ailment": staticmethod(ailment)})
        try:
            self._server = type("Server", (ThreadingHTTPServer,), {"address_family": family})((host, port), handler)
        except OSError as error:
            raise ServingError(f"metrics address {address}: {error.strerror or error}; choose another one") from None
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_LOOK_S,), name="dsa-endpoint", daemon=True
        )
        self._thread.start()

    @property
    def address(self) -> str:
        """Where it listens, as "HOST:PORT"."""
        host, port = self._server.server_address[:2]
        name = host.decode() if isinstance(host, bytes) else str(host)
        return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"

    def close(self) -> None:
        """Stop listening. Idempotent."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    timeout = _REQUEST_S
    server_version, sys_version = "dsa", ""
    metrics: Callable[[], tuple[str, bytes]]
    ailment: Callable[[], str | None]

    def do_GET(self) -> None:
        """As `http.server` calls it."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            kind, text = self.metrics()
            self._reply(200, kind, text)
        elif path == "/healthz":
            ailment = self.ailment()
            self._reply(503 if ailment else 200, "text/plain; charset=utf-8", f"{ailment or 'ok'}\n".encode())
        else:
            self._reply(404, "text/plain; charset=utf-8", b"/metrics or /healthz\n")

    def log_message(self, format: str, *arguments: Any) -> None:
        """A scrape every few seconds is no news."""

    def _reply(self, status: int, kind: str, text: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def _parse(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    try:
        if host != "localhost":
            ipaddress.ip_address(host)
        if not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
            raise ValueError
    except ValueError:
        raise ServingError(f"metrics address {address!r}: expected HOST:PORT with a numeric address, or PORT") from None
    return ("127.0.0.1" if host == "localhost" else host), int(port)
