"""Who may connect, on sockets that know nothing of worlds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from dsa_runtime import ServingError
from dsa_runtime.serving.keys import AllowList, KeyPair
from dsa_runtime.serving.security import Access, Guard
from tests.serving.routers import LOOPBACK, NewRouter, client, echoes, is_refused


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
