"""Fixtures shared by all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dsa_runtime import World, load_world
from tests.tiny_world import write_tiny_world


@pytest.fixture(scope="session")
def tiny_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny world package that tests only read."""
    return write_tiny_world(tmp_path_factory.mktemp("worlds") / "tiny")


@pytest.fixture(scope="session")
def tiny_world(tiny_package: Path) -> Iterator[World]:
    """The tiny world, loaded once."""
    with load_world(tiny_package, threads=1) as world:
        yield world


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A tiny world package that the test may damage."""
    return write_tiny_world(tmp_path / "tiny")
