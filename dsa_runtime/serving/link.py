"""Link: where a client's server is and how it is reached. Makes the sockets."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass

import zmq

from ..errors import ServingError
from .keys import KeyPair, load_key, public_key

LAP_MS = 250
"""A client that has heard nothing for so long asks whether the server is there."""
_QUEUED = 64  # messages that have not left yet
_BEAT_TIMEOUT_MS = 600
_MOST_MS = 2**31 - 1  # of libzmq
_ADDRESS = re.compile(r"tcp://(\[[^\[\]]+\]|[^:\[\]]+):(\d{1,5})|ipc://.+")


@dataclass(frozen=True)
class ClientKeys:
    """For a server with CURVE: this client's key pair, and the server's public key, by which it is known."""

    own: KeyPair
    server: bytes
    """40 bytes of Z85 text."""

    @classmethod
    def load(cls, key: str | os.PathLike[str], server_key: str | os.PathLike[str]) -> ClientKeys:
        """key          name or path of this client's secret key (`dsa keys new`)
        server_key   the server's public key: its text, or the name or path of a file that holds it

        Raises `ServingError`, which says which of them is wrong and how.
        """
        return cls(load_key(key), public_key(server_key))

    def put_on(self, socket: zmq.Socket[bytes]) -> None:
        """Before the socket connects."""
        socket.curve_publickey, socket.curve_secretkey = self.own.public, self.own.secret
        socket.curve_serverkey = self.server


@dataclass(frozen=True)
class Link:
    """How a server is reached."""

    address: str
    """`tcp://HOST:PORT` or `ipc://PATH`."""
    keys: ClientKeys | None = None
    timeout_ms: float = 10_000.0
    """After so long a silence the server is gone."""

    def __post_init__(self) -> None:
        found = _ADDRESS.fullmatch(self.address)
        if not found or int(found[2] or 0) > 65535:  # of which libzmq would take the lower bits
            raise ServingError(f"address {self.address!r}: expected tcp://HOST:PORT or ipc:///PATH/OF/A/SOCKET")
        number = isinstance(self.timeout_ms, (int, float)) and not isinstance(self.timeout_ms, bool)
        if not number or not 0 < self.timeout_ms < float("inf"):
            raise ServingError(f"timeout_ms: expected a number of milliseconds above 0, got {self.timeout_ms!r}")

    @property
    def is_local(self) -> bool:
        """Whether the server seems to be on this machine; a tunnel looks the same."""
        found = _ADDRESS.fullmatch(self.address)
        assert found
        if found[1] is None or found[1] == "localhost":
            return True
        try:
            return ipaddress.ip_address(found[1].strip("[]")).is_loopback
        except ValueError:
            return False

    def socket(self, *, read_late: bool = False) -> zmq.Socket[bytes]:
        """A DEALER that is being connected. Raises `ServingError` for an address that cannot be.

        read_late   what the server said last is to be read even after it has gone; with `IMMEDIATE`, libzmq throws away
                    what was not read by then. In return, what is sent to a server that is away reaches the next one
        """
        socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        for option, value in (
            (zmq.IMMEDIATE, 0 if read_late else 1),
            (zmq.SNDHWM, _QUEUED),
            (zmq.LINGER, 0),
            (zmq.RECONNECT_IVL, 50),
            (zmq.RECONNECT_IVL_MAX, 400),
            (zmq.HEARTBEAT_IVL, 200),
            # A peer that is frozen, or behind a cut, is noticed. A message that crosses slowly is a silence too, until
            # all of it is there: with less than the timeout, the connection would be dropped amid each one, for ever.
            (zmq.HEARTBEAT_TIMEOUT, min(max(_BEAT_TIMEOUT_MS, int(self.timeout_ms)), _MOST_MS)),
            (zmq.SNDTIMEO, LAP_MS),
            (zmq.RCVTIMEO, LAP_MS),
        ):
            socket.setsockopt(option, value)
        if self.address.startswith("tcp://["):
            socket.ipv6 = True
        try:
            if self.keys is not None:
                self.keys.put_on(socket)
            socket.connect(self.address)
        except zmq.ZMQError as error:
            socket.close()
            raise ServingError(
                f"address {self.address}: {error.strerror}; expected tcp://HOST:PORT or ipc://PATH"
            ) from None
        return socket
