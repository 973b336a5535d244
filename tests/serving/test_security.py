"""Where a server may listen and who may connect, on sockets that know nothing of worlds."""

from __future__ import annotations

import os
import socket as sockets
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq

from dsa_runtime import ServingError
from dsa_runtime.serving.keys import AllowList, KeyPair
from dsa_runtime.serving.security import Access, Guard

PATIENCE_MS = 10_000  # for what shall happen
LOOPBACK = "tcp://127.0.0.1:*"
KILLED_SERVER = """
import os, signal, sys, zmq
from dsa_runtime.serving.security import Guard
context = zmq.Context()
Guard(context).bind(context.socket(zmq.ROUTER), sys.argv[1])
os.kill(os.getpid(), signal.SIGKILL)
"""


class NewRouter:
    """A function that keeps what it makes: a socket that is dropped would be closed."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._context = context
        self._made: list[zmq.Socket[bytes]] = []

    def __call__(self) -> zmq.Socket[bytes]:
        self._made.append(self._context.socket(zmq.ROUTER))
        return self._made[-1]

    def close(self) -> None:
        for socket in self._made:
            socket.close(0)


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
def new_router(context: zmq.Context[zmq.Socket[bytes]]) -> NewRouter:
    """Makes ROUTERs. They are closed before the guard is."""
    return NewRouter(context)


@pytest.fixture
def guard(context: zmq.Context[zmq.Socket[bytes]], new_router: NewRouter) -> Iterator[Guard]:
    """Without keys."""
    guard = Guard(context)
    yield guard
    new_router.close()
    guard.close()


@pytest.fixture
def server_key() -> KeyPair:
    return KeyPair(*zmq.curve_keypair())


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    """An allow-list with one key that nobody has."""
    file = tmp_path / "allowed"
    file.write_bytes(zmq.curve_keypair()[0] + b"\n")
    return file


@pytest.fixture
def keyed(
    context: zmq.Context[zmq.Socket[bytes]], new_router: NewRouter, server_key: KeyPair, allowed: Path
) -> Iterator[Guard]:
    """With keys."""
    guard = Guard(context, Access(server_key, AllowList(allowed)))
    yield guard
    new_router.close()
    guard.close()


@contextmanager
def client(address: str, server: bytes | None = None, pair: KeyPair | None = None) -> Iterator[zmq.Socket[bytes]]:
    """A DEALER in a context of its own, with keys if it is given some."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger, socket.ipv6 = 0, True
        if pair is not None and server is not None:
            socket.curve_serverkey, socket.curve_publickey, socket.curve_secretkey = server, pair.public, pair.secret
        socket.connect(address)
        yield socket


def echoes(router: zmq.Socket[bytes], dealer: zmq.Socket[bytes]) -> bool:
    dealer.send(b"hello")
    if not router.poll(PATIENCE_MS):
        return False
    router.send_multipart(router.recv_multipart())
    return bool(dealer.poll(PATIENCE_MS)) and dealer.recv() == b"hello"


def is_refused(router: zmq.Socket[bytes], dealer: zmq.Socket[bytes]) -> bool:
    """The handshake fails, which the server's side reports, and no message comes through."""
    events = (
        zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    )
    with router.get_monitor_socket(events) as monitor:
        dealer.send(b"hello")
        failed = bool(monitor.poll(PATIENCE_MS))
        router.disable_monitor()
    return failed and not router.poll(0)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "localhost", "[::1]"])
def test_loopback_addresses_need_no_keys(guard: Guard, new_router: NewRouter, host: str) -> None:
    if host == "[::1]" and not os.path.exists("/proc/net/if_inet6"):
        pytest.skip("no IPv6 on this machine")
    router = new_router()
    address = guard.bind(router, f"tcp://{host}:*")
    assert int(address.rpartition(":")[2]) > 0
    with client(address) as dealer:
        assert echoes(router, dealer)


@pytest.mark.parametrize(
    "host", ["*", "0.0.0.0", "[::]", "10.0.0.1", "192.168.1.1", "8.8.8.8", "eth0", "lo", "myhost", "128.0.0.1", "[::2]"]
)
def test_any_other_address_is_refused_without_keys(guard: Guard, new_router: NewRouter, host: str) -> None:
    router = new_router()
    with pytest.raises(ServingError, match=r"needs keys.*--curve, --allow"):
        guard.bind(router, f"tcp://{host}:0")
    assert router.last_endpoint == b"", "nothing may be bound"


@pytest.mark.parametrize(
    "address",
    [
        "", "5577", "127.0.0.1:5577", "tcp://127.0.0.1", "tcp://:5577", "tcp://127.0.0.1:port", "tcp://::1:5577", "udp://127.0.0.1:1",
        "inproc://x", "ipc://", "ipc://*", "ipc://@abstract", "ipc://relative/path", "tcp://127.0.0.1:1\n", "tcp://127.0.0.1:-1",
    ],
)  # fmt: skip
def test_addresses_that_are_none(guard: Guard, new_router: NewRouter, address: str) -> None:
    router = new_router()
    with pytest.raises(ServingError, match="address"):
        guard.bind(router, address)
    assert router.last_endpoint == b""


def test_a_port_beyond_the_last_one(guard: Guard, new_router: NewRouter) -> None:
    with pytest.raises(ServingError, match="expected tcp://HOST:PORT"):
        guard.bind(new_router(), "tcp://127.0.0.1:99999")


def test_a_port_in_use(guard: Guard, new_router: NewRouter) -> None:
    first = new_router()
    address = guard.bind(first, LOOPBACK)
    with pytest.raises(ServingError, match="in use"):
        guard.bind(new_router(), address)


def test_an_ipc_folder_is_made_private(guard: Guard, new_router: NewRouter, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        router = new_router()
        address = guard.bind(router, f"ipc://{tmp_path}/private/dsa")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o700
    with client(address) as dealer:
        assert echoes(router, dealer)


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o1777, 0o701])
def test_an_ipc_folder_that_others_can_enter_is_refused(
    guard: Guard, new_router: NewRouter, tmp_path: Path, mode: int
) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(ServingError, match=r"private folder.*chmod 700"):
        guard.bind(new_router(), f"ipc://{tmp_path}/dsa")
    assert list(tmp_path.iterdir()) == []
    assert stat.S_IMODE(tmp_path.stat().st_mode) == mode, "it may be open on purpose"


def test_a_second_bind_does_not_steal_the_path(guard: Guard, new_router: NewRouter, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    first = new_router()
    address = guard.bind(first, f"ipc://{tmp_path}/dsa")
    with zmq.Context() as other, other.socket(zmq.ROUTER) as second:
        thief = Guard(other)
        with pytest.raises(ServingError, match="in use by another server"):
            thief.bind(second, address)
        thief.close()
    with client(address) as dealer:
        assert echoes(first, dealer)


def test_a_listening_socket_without_a_lock_is_left_alone(guard: Guard, new_router: NewRouter, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with sockets.socket(sockets.AF_UNIX) as other:
        other.bind(str(tmp_path / "dsa"))
        other.listen(1)
        with pytest.raises(ServingError, match="in use by another program"):
            guard.bind(new_router(), f"ipc://{tmp_path}/dsa")
        with sockets.socket(sockets.AF_UNIX) as visitor:
            visitor.connect(str(tmp_path / "dsa"))


def test_a_failed_bind_gives_the_path_free(guard: Guard, new_router: NewRouter, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    path = tmp_path / "dsa"
    path.write_text("precious")
    with pytest.raises(ServingError, match="not a socket"):
        guard.bind(new_router(), f"ipc://{path}")
    assert path.read_text() == "precious"
    path.unlink()
    assert guard.bind(new_router(), f"ipc://{path}") == f"ipc://{path}"


def test_the_socket_of_a_killed_server_is_replaced(guard: Guard, new_router: NewRouter, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    address = f"ipc://{tmp_path}/dsa"
    killed = subprocess.run([sys.executable, "-c", KILLED_SERVER, address], timeout=60, capture_output=True)
    assert killed.returncode == -9, killed.stderr
    assert (tmp_path / "dsa").is_socket(), "what a killed server leaves behind"
    router = new_router()
    guard.bind(router, address)
    with client(address) as dealer:
        assert echoes(router, dealer)


def test_a_path_too_long_for_a_socket(guard: Guard, new_router: NewRouter, tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="at most 103 bytes"):
        guard.bind(new_router(), f"ipc://{tmp_path}/{'x' * 104}")


def test_closing_gives_the_path_free(context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path) -> None:
    """And removes it, which libzmq does not do. Again and again, as it unbinds in the background."""
    tmp_path.chmod(0o700)
    for _ in range(50):
        guard, router = Guard(context), context.socket(zmq.ROUTER)
        guard.bind(router, f"ipc://{tmp_path}/dsa")
        router.close(0)
        guard.close()
        assert not (tmp_path / "dsa").exists()
        guard.close()


@pytest.mark.parametrize("address", [LOOPBACK, "tcp://0.0.0.0:*", "ipc://{folder}/dsa"])
def test_with_keys_who_is_on_the_list_is_served(
    keyed: Guard, new_router: NewRouter, server_key: KeyPair, allowed: Path, address: str
) -> None:
    allowed.parent.chmod(0o700)
    pair = KeyPair(*zmq.curve_keypair())
    allowed.write_bytes(pair.public + b" while it runs\n")
    router = new_router()
    bound = keyed.bind(router, address.format(folder=allowed.parent)).replace("0.0.0.0", "127.0.0.1")
    with client(bound, server_key.public, pair) as dealer:
        assert echoes(router, dealer)


def test_an_unknown_key_is_refused(keyed: Guard, new_router: NewRouter, server_key: KeyPair) -> None:
    router = new_router()
    with client(keyed.bind(router, LOOPBACK), server_key.public, KeyPair(*zmq.curve_keypair())) as dealer:
        assert is_refused(router, dealer)


def test_a_client_without_keys_is_refused(keyed: Guard, new_router: NewRouter) -> None:
    router = new_router()
    with client(keyed.bind(router, LOOPBACK)) as dealer:
        assert is_refused(router, dealer)


def test_a_client_that_expects_another_server_is_refused(keyed: Guard, new_router: NewRouter, allowed: Path) -> None:
    pair = KeyPair(*zmq.curve_keypair())
    allowed.write_bytes(pair.public + b"\n")
    router = new_router()
    with client(keyed.bind(router, LOOPBACK), zmq.curve_keypair()[0], pair) as dealer:
        assert is_refused(router, dealer)


@pytest.mark.parametrize("harm", ["gate closed", "list damaged", "list gone", "list refuses to work"])
def test_whatever_fails_nobody_gets_in(
    keyed: Guard,
    new_router: NewRouter,
    server_key: KeyPair,
    allowed: Path,
    monkeypatch: pytest.MonkeyPatch,
    harm: str,
) -> None:
    pair = KeyPair(*zmq.curve_keypair())
    allowed.write_bytes(pair.public + b" let in before\n")
    router = new_router()
    address = keyed.bind(router, LOOPBACK)
    with client(address, server_key.public, pair) as dealer:
        assert echoes(router, dealer)
    harms: dict[str, Callable[[], object]] = {
        "gate closed": keyed.close,
        "list damaged": lambda: allowed.write_text("garbage"),
        "list gone": allowed.unlink,
        "list refuses to work": lambda: monkeypatch.setattr(AllowList, "allows", lambda self, key: 1 / 0),
    }
    harms[harm]()
    with client(address, server_key.public, pair) as dealer:
        assert is_refused(router, dealer)
    if harm != "gate closed":  # the gate itself has survived
        monkeypatch.undo()
        allowed.write_bytes(pair.public + b" let in again\n")
        with client(address, server_key.public, pair) as dealer:
            assert echoes(router, dealer)


def test_access_says_which_part_of_it_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match=r"no such key.*server\.key_secret"):
        Access.load(tmp_path / "server.key_secret", tmp_path / "allowed")
