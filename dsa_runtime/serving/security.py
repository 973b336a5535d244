"""Security: where a server may listen, and who may connect.

Without keys a server listens where only this machine reaches it: on a loopback address (every user of the machine), or
on an ipc socket in a private folder (this user). Any other address needs CURVE: the server's key pair, and a list of
the public keys that are let in.
"""

from __future__ import annotations

import fcntl
import ipaddress
import logging
import os
import re
import socket as sockets
import stat
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import zmq
from zmq.auth.thread import ThreadAuthenticator

from ..errors import ServingError
from .keys import AllowList, KeyPair, load_key

_LOG = logging.getLogger(__name__)
_DOMAIN = "dsa"
_TCP = re.compile(r"tcp://(\[[^\[\]]+\]|[^:\[\]]+):(\d{1,5}|\*)")
_UNBOUND_S = 2.0
_LOOK_S = 0.001
_LONGEST_IPC = 103  # bytes of a socket's path: 107 on Linux, 103 on macOS


@dataclass(frozen=True)
class Access:
    """A server's key pair, and whom it lets in."""

    key: KeyPair
    allow: AllowList

    @classmethod
    def load(cls, key: str | os.PathLike[str], allow: str | os.PathLike[str]) -> Access:
        """key    name or path of a secret key
        allow     path of an allow-list

        Raises `ServingError`, which says which of them is wrong and how.
        """
        return cls(load_key(key), AllowList(Path(allow)))


class Guard:
    """Binds the sockets of one context by the rules, and keeps the keys' gate while they live.

    One per context, which it must not outlive: `close` it after the sockets and before the context.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], access: Access | None = None) -> None:
        self._access = access
        self._locks: list[tuple[Path, int]] = []
        self._authenticator: ThreadAuthenticator | None = None
        if access is not None:
            self._authenticator = ThreadAuthenticator(context)
            self._authenticator.start()
            self._authenticator.configure_curve_callback(domain=_DOMAIN, credentials_provider=_Gate(access.allow))

    def bind(self, socket: zmq.Socket[bytes], address: str) -> str:
        """Secure a socket and bind it; returns the address it has, with the port that was chosen for `:0` or `:*`.

        Raises `ServingError` and leaves the socket unbound: the address is malformed, in use, or not safe without keys.
        """
        held = len(self._locks)
        try:
            return _bind(socket, self.secure(socket, address))
        except ServingError:
            self._release(held)
            raise

    def secure(self, socket: zmq.Socket[bytes], address: str) -> str:
        """What comes before a bind: check the address, set the keys, hold an ipc path. Returns the address to bind to.

        Raises `ServingError` as `bind` does.
        """
        if self._access is not None:
            key = self._access.key
            socket.curve_server = True
            socket.curve_publickey, socket.curve_secretkey = key.public, key.secret
            socket.zap_domain = _DOMAIN.encode()
            # Without it libzmq lets in whoever knows the server's public key, should the gate's thread be gone.
            socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        if address.startswith("ipc://"):
            path = _check_path(address)
            _make_private(path.parent)
            self._locks.append((path, _lock(path)))
            _clear(path)
            return address
        host, port = _check_tcp(address, self._access is not None)
        if host.startswith("["):
            socket.ipv6 = True
        return f"tcp://{host}:{port}"

    def close(self) -> None:
        """End the gate, remove the paths of ipc sockets and give them free. Idempotent.

        A thread of libzmq unbinds closed sockets, a little later. Until then their paths are not free: the next server
        would find one that still listens.
        """
        if self._authenticator is not None:
            self._authenticator.stop()
            self._authenticator = None
        for path, _ in self._locks:
            _await_unbound(path)
        self._release(0)

    def _release(self, held: int) -> None:
        while len(self._locks) > held:
            os.close(self._locks.pop()[1])


class _Gate:
    """What the authenticator's thread asks."""

    def __init__(self, allow: AllowList) -> None:
        self._allow = allow

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether the holder of a public key may connect."""
        try:
            allowed = self._allow.allows(key)
        except Exception as error:  # it would end the thread, and then nobody could connect ever again
            _LOG.error("nobody is let in: %s", error, exc_info=not isinstance(error, ServingError))
            return False
        if not allowed:
            _LOG.warning("refused a client whose key is not on the allow-list: %s", key.decode())
        return allowed


def _is_loopback(host: str) -> bool:
    """A numeric loopback address. Names, of interfaces and hosts, and `*` are not."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _check_tcp(address: str, keys: bool) -> tuple[str, str]:
    found = _TCP.fullmatch(address)
    if not found or (found[2] != "*" and int(found[2]) > 65535):  # of which libzmq would take the lower bits
        raise ServingError(f"address {address!r}: expected tcp://HOST:PORT or ipc:///PATH/OF/A/SOCKET")
    host = "127.0.0.1" if found[1] == "localhost" else found[1]
    if not keys and not _is_loopback(host):
        raise ServingError(
            f"address {address}: can be reached from other machines, which needs keys: the server's own and an"
            " allow-list (--curve, --allow); or use tcp://127.0.0.1:PORT or ipc://PATH"
        )
    return host, found[2]


def _check_path(address: str) -> Path:
    path = Path(address.removeprefix("ipc://"))
    if not path.is_absolute():
        raise ServingError(f"address {address}: give the whole path, ipc:///PATH/OF/A/SOCKET")
    if len(os.fsencode(path)) > _LONGEST_IPC:
        raise ServingError(f"address {address}: a socket's path has at most {_LONGEST_IPC} bytes; choose a shorter one")
    return path


def _bind(socket: zmq.Socket[bytes], address: str) -> str:
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        what = "in use by another program" if error.errno == zmq.EADDRINUSE else str(error.strerror)
        raise ServingError(f"address {address}: {what}; choose another one") from None
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)


def _make_private(folder: Path) -> None:
    """A folder that nobody else can enter: made so, or found so. One that is open is left as it is."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        raise ServingError(f"folder {folder}: {error.strerror}; choose one that can be written") from None
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise ServingError(
            f"folder {folder}: an ipc socket needs a private folder, of this user and mode 0700 (it has"
            f" {stat.S_IMODE(found.st_mode):04o}); `chmod 700` it or choose another one"
        )


def _lock(path: Path) -> int:
    """Hold the lock of a socket's path, which ends with the process. The file stays: removing it would be a race."""
    descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise ServingError(f"address ipc://{path}: in use by another server; stop it or choose another one") from None
    return descriptor


def _await_unbound(path: Path) -> None:
    """Remove a path as soon as nobody listens there."""
    deadline = monotonic() + _UNBOUND_S
    while True:
        try:
            return _clear(path)
        except ServingError:
            if monotonic() >= deadline:
                return
        sleep(_LOOK_S)


def _clear(path: Path) -> None:
    """Remove the socket of a server that was killed. libzmq would take a living one's path away without a word."""
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise ServingError(f"address ipc://{path}: there is a file of that name, not a socket; choose another one")
    with sockets.socket(sockets.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError:
            pass  # a program that lives, but takes no more connections
    raise ServingError(f"address ipc://{path}: in use by another program; choose another one")
