"""Fixtures of the tests of libdsa_client. They are skipped where it cannot be built."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsa_runtime import World
from tests.capi import client
from tests.capi.client import ClientWorld
from tests.play import play
from tests.serving.lives import Lives
from tests.wire_clients.serve import ServerProcess


@pytest.fixture(scope="module", autouse=True)
def library() -> Any:
    return client.library()


@pytest.fixture(scope="module")
def expected(tiny_world: World) -> list[np.ndarray]:
    with tiny_world.session(7) as alone:
        return play(alone)


@pytest.fixture
def lives(tiny_world: World, tmp_path: Path) -> Iterator[Lives]:
    with Lives(tiny_world, tmp_path) as served:
        yield served


@pytest.fixture
def world(lives: Lives, tiny_world: World) -> Iterator[ClientWorld]:
    with ClientWorld(tiny_world.spec, lives.server.address) as far:
        yield far


@pytest.fixture(scope="module")
def server(tiny_package: Path) -> Iterator[ServerProcess]:
    """A server that no test ends."""
    with ServerProcess("tcp://127.0.0.1:*", [tiny_package]) as running:
        yield running


@pytest.fixture
def private() -> Iterator[Path]:
    """A folder for ipc sockets: only this user can enter it, and its path is short."""
    with tempfile.TemporaryDirectory(prefix="dsa-") as folder:
        yield Path(folder)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads
