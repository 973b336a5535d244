"""The doors: `python`, a session in this process; `wire`, one at a server; `c`, one behind dsa_runtime.h; `client`, one
behind the same header at a server; `batched`, one at a server that makes the ticks of several sessions together, as
servers do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from dsa_runtime import World, connect
from dsa_runtime.capi.build import NAME, ToolsMissing
from tests.behaviour.door import Door
from tests.capi import client
from tests.capi.library import CWorld, Library, built
from tests.serving.serve import serve

ALONE = ("python", "wire", "c", "client")
DOORS = (*ALONE, "batched")


@pytest.fixture(scope="session")
def doors(tiny_world: World, tiny_package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Door]]:
    """All of them, to the tiny world. A module of another world has its own."""
    with doors_of(tiny_world, tiny_package, tmp_path_factory) as found:
        yield found


@contextmanager
def doors_of(world: World, package: Path, folders: pytest.TempPathFactory) -> Iterator[dict[str, Door]]:
    """All of them, `c` if it can be built here. The servers are in threads of this process, and the library uses its
    Python, so that a test can get at the engine they run on."""
    with ExitStack() as stack:
        found = {"python": Door("python", world.spec, world.session)}
        for name in ("wire", "batched"):
            settings = {"batched": name == "batched", "load_most": float("inf"), "max_sessions": 256}
            server = stack.enter_context(serve(world, folders.mktemp(name), **settings))
            connection = stack.enter_context(connect(server.address))
            found[name] = Door(name, connection.spec, connection.session)
            if name == "wire" and client.missing() is None:
                far = stack.enter_context(client.ClientWorld(world.spec, server.address))
                found["client"] = Door("client", world.spec, far.session)
        with suppress(ToolsMissing):
            library = Library(built() / "lib" / NAME)
            near = stack.enter_context(closing(CWorld(library, package, world.spec)))
            found["c"] = Door("c", world.spec, near.session)
        yield found


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest, doors: dict[str, Door]) -> Door:
    """Each of them in turn."""
    return _opened(doors, request.param)


@pytest.fixture(params=ALONE)
def lone_door(request: pytest.FixtureRequest, doors: dict[str, Door]) -> Door:
    """Each of those whose sessions run their graphs alone, so that a test can hold one of them at a stage."""
    return _opened(doors, request.param)


def _opened(doors: dict[str, Door], name: str) -> Door:
    if name not in doors:
        pytest.skip("the C library cannot be built here; `python -m dsa_runtime.capi build` says why")
    return doors[name]
