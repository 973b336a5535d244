"""Closing a session that another thread is in: waits for the call, which can still be cancelled."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from dsa_runtime import CancelledError, World
from dsa_runtime.capi.build import NAME, ToolsMissing
from tests.capi import client
from tests.capi.library import E_HANDLE, CSession, CWorld, Library, built
from tests.serving.lives import Lives
from tests.stages import WAIT_S, Gate


@pytest.fixture(params=["runtime", "client"])
def world(request: pytest.FixtureRequest, tiny_package: Path, tiny_world: World, tmp_path: Path) -> Iterator[CWorld]:
    """The tiny world behind either library."""
    if request.param == "client":
        client.library()
        with Lives(tiny_world, tmp_path) as lives, client.ClientWorld(tiny_world.spec, lives.server.address) as far:
            yield far
        return
    try:
        library = Library(built() / "lib" / NAME)
    except ToolsMissing as error:
        pytest.skip(str(error).splitlines()[0])
    with closing(CWorld(library, tiny_package, tiny_world.spec)) as near:
        yield near


def status_of(session: CSession, name: str, *arguments: object) -> int:
    return int(getattr(session._library.lib, f"dsa_session_{name}")(session._handle, *arguments))


@pytest.mark.parametrize("closed", ["session", "world"])
def test_a_step_that_closing_waits_for_can_be_cancelled(
    world: CWorld, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    session = world.session(7)
    library = session._library
    ffi, state = library.ffi, library.struct("session_state")
    cancelled = ffi.new("int32_t *")
    gate = Gate(monkeypatch, "denoise")
    with ThreadPoolExecutor(2) as pool:
        step = pool.submit(session.step, 3, math.inf)
        assert gate.inside.wait(WAIT_S)
        handle = session._handle if closed == "session" else world._world[0]
        close = pool.submit(getattr(library.lib, f"dsa_{closed}_close"), handle)
        give_up = time.monotonic() + WAIT_S
        while status_of(session, "where", state) != E_HANDLE:  # from then on it is being closed
            assert time.monotonic() < give_up
            time.sleep(0.0005)
        assert not close.done()
        assert status_of(session, "close") == E_HANDLE  # nothing but cancel comes in
        while status_of(session, "cancel", cancelled) == 0 and not cancelled[0]:
            assert time.monotonic() < give_up  # the server may not have begun the step when it is asked to stop it
        assert cancelled[0] == 1
        with pytest.raises(CancelledError):
            step.result(WAIT_S)
        assert close.result(WAIT_S) == 0
    assert status_of(session, "cancel", cancelled) == E_HANDLE
    assert cancelled[0] == 0
