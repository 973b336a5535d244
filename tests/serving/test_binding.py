"""Where a server may listen, on sockets that know nothing of worlds."""

from __future__ import annotations

import os
import socket as sockets
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import zmq

from dsa_runtime import ServingError
from dsa_runtime.serving.security import Guard
from tests.serving.routers import LOOPBACK, NewRouter, client, echoes

KILLED_SERVER = """
import os, signal, sys, zmq
from dsa_runtime.serving.security import Guard
context = zmq.Context()
Guard(context).bind(context.socket(zmq.ROUTER), sys.argv[1])
os.kill(os.getpid(), signal.SIGKILL)
"""


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
