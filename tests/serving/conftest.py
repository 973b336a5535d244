"""A server over the tiny world, and a peer of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dsa_runtime import World
from dsa_runtime.serving.server import Server
from tests.serving.held import Held
from tests.serving.peer import Peer
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
