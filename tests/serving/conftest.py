"""Servers over the tiny world, peers and connections of them, and sockets without worlds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq

from dsa_runtime import Connection, World, connect
from dsa_runtime.serving.security import Guard
from dsa_runtime.serving.server import Server
from tests.play import play
from tests.serving.held import Held
from tests.serving.lives import Lives
from tests.serving.peer import Peer
from tests.serving.relay import Relay, relayed
from tests.serving.routers import NewRouter
from tests.serving.serve import serve


@pytest.fixture
def served(tiny_world: World, tmp_path: Path) -> Iterator[Server]:
    """A running server; `served.address` is where. It lends sessions of the tiny world, without limits by load."""
    with serve(tiny_world, tmp_path, load_most=float("inf")) as server:
        yield server


@pytest.fixture
def peer(served: Server) -> Iterator[Peer]:
    """A client that has said hello."""
    with Peer.greeted(served.address) as greeted:
        yield greeted


@pytest.fixture
def held(served: Server, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """Holds denoising steps from now on; lets them go at the end, before the server is stopped."""
    peer.ask("close", sid=peer.open())  # the world's batcher has warmed up now
    held = Held(monkeypatch)
    yield held
    held.let_go()


@pytest.fixture(scope="session")
def expected(tiny_world: World) -> list[np.ndarray]:
    """What a session in this process draws that starts from 7."""
    with tiny_world.session(7) as alone:
        return play(alone)


@pytest.fixture
def connection(served: Server) -> Iterator[Connection]:
    """To that server."""
    with connect(served.address) as connected:
        yield connected


@pytest.fixture
def relay(served: Server, tmp_path: Path) -> Iterator[Relay]:
    """Before that server; it lets everything pass."""
    with relayed(served.address, tmp_path) as between:
        yield between


@pytest.fixture
def lives(tiny_world: World, tmp_path: Path) -> Iterator[Lives]:
    """A server that runs, to be ended and begun again."""
    with Lives(tiny_world, tmp_path) as served:
        yield served


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
