"""Fixtures of the tests of clients."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from dsa_runtime import World, load_world
from dsa_runtime.spec import Box, MultiBinary
from tests.chunk_world import write_chunk_world
from tests.tiny_world import write_tiny_world
from tests.wire_clients.serve import ServerProcess

SPACES = {
    "tiny-buttons": MultiBinary(3, ("left", "right", "fire")),
    "tiny-levers": Box((-1.0, 0.0), (1.0, 10.0), ("turn", "lift"), ("rad", "m")),
}


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny worlds with the other action spaces, and one of several pictures a tick and with prompts, by name."""
    folder = tmp_path_factory.mktemp("spaces")
    spaces = {name: write_tiny_world(folder / name, space, name=name) for name, space in SPACES.items()}
    return {**spaces, "chunks": write_chunk_world(folder / "chunks")}


@pytest.fixture(scope="session")
def worlds(packages: dict[str, Path]) -> Iterator[dict[str, World]]:
    """The same, loaded in this process."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(load_world(package, threads=1)) for name, package in packages.items()}


@pytest.fixture(scope="session")
def server(tiny_package: Path, packages: dict[str, Path]) -> Iterator[ServerProcess]:
    """A server that no test ends; its first world is the tiny one."""
    with ServerProcess("tcp://127.0.0.1:*", [tiny_package, *packages.values()]) as running:
        yield running


@pytest.fixture
def private() -> Iterator[Path]:
    """A folder for ipc sockets: only this user can enter it, and its path is short."""
    with tempfile.TemporaryDirectory(prefix="dsa-") as folder:
        yield Path(folder)
