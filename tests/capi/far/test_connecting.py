"""libdsa_client: a server is found, and its worlds draw the frames that they draw here."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pytest

from dsa_runtime import ActionError, World, load_world
from dsa_runtime.serving import keys
from dsa_runtime.spec import Box, MultiBinary
from tests.capi import client
from tests.capi.client import ClientWorld
from tests.capi.far.status import E_GONE, E_START, E_WORLD, status_of
from tests.capi.library import CSession
from tests.play import play
from tests.serving.lives import Lives
from tests.tiny_world import write_tiny_world
from tests.wire_clients.serve import ServerProcess

PART, SHM = 1, 2
SPACES = {
    "tiny-buttons": MultiBinary(3, ("left", "right", "fire")),
    "tiny-levers": Box((-1.0, 0.0), (1.0, 10.0), ("turn", "lift"), ("rad", "m")),
}


class TestFrames:
    @pytest.mark.parametrize("frames", [PART, SHM])
    def test_they_are_those_of_a_local_session_bit_for_bit(
        self, lives: Lives, tiny_world: World, expected: list[np.ndarray], frames: int
    ) -> None:
        with ClientWorld(tiny_world.spec, lives.server.address, frames=frames) as far, far.open(7) as session:
            np.testing.assert_array_equal(play(session), expected)

    @pytest.mark.parametrize("name", SPACES)
    def test_with_every_action_space(self, tmp_path: Path, name: str) -> None:
        package, space = write_tiny_world(tmp_path / name, SPACES[name], name=name), SPACES[name]
        rng = np.random.default_rng(5)
        with load_world(package, threads=1) as near, Lives(near, tmp_path / "served") as lives:
            actions = (
                rng.integers(0, 2, (12, space.n))
                if isinstance(space, MultiBinary)
                else rng.uniform(space.low, space.high, (12, space.width))
            )
            with near.session(7) as alone, ClientWorld(near.spec, lives.server.address) as far, far.open(7) as session:
                for action in actions:
                    one, other = alone.step(action, math.inf, steps=2), session.step(action, math.inf, steps=2)
                    np.testing.assert_array_equal(one.pixels, other.pixels)
                with pytest.raises(ActionError):
                    far_step(session, np.full(space.width, 99, np.float32 if isinstance(space, Box) else np.uint8))

    def test_what_the_world_is(self, world: ClientWorld, tiny_world: World) -> None:
        library, near = client.library(), tiny_world.spec
        far = library.struct("spec")
        library.call("world_spec", world._world[0], far)
        text = {name: library.ffi.string(getattr(far, name)).decode() for name in ("name", "version", "licence")}
        assert text == {"name": near.name, "version": near.version, "licence": near.licence}
        assert library.ffi.string(far.description).decode() == near.description
        assert (far.height, far.width, far.fps) == (near.frame.height, near.frame.width, near.frame.fps)
        assert list(far.schedule_levels[0 : far.schedule_steps]) == list(near.schedule.levels)
        assert far.contexts == tiny_world.contexts
        assert library.ffi.string(far.fingerprint).decode() == near.fingerprint


def far_step(session: CSession, action: np.ndarray) -> None:
    """A step past the checks of Python."""
    session._call("step", action.tobytes(), action.nbytes, 0, client.library().ffi.NULL, 0, client.library().ffi.NULL)


class TestConnecting:
    @pytest.mark.parametrize("address", ["", "localhost:5577", "tcp://:1", "tcp://host", "tcp://host:99999", "ipc://"])
    def test_an_address_that_is_none(self, tiny_world: World, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("DSA_SERVER", raising=False)
        assert status_of(ClientWorld, tiny_world.spec, address) == E_START

    def test_nobody_there(self, tiny_world: World, tmp_path: Path) -> None:
        assert status_of(ClientWorld, tiny_world.spec, f"ipc://{tmp_path}/x", timeout_us=300_000) == E_GONE

    def test_a_world_that_is_not_there(self, lives: Lives, tiny_world: World) -> None:
        assert status_of(ClientWorld, tiny_world.spec, lives.server.address, "nowhere") == E_WORLD

    def test_a_server_with_keys(self, tiny_package: Path, tiny_world: World, tmp_path: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CONFIG_HOME", str(tmp_path))
            own, stranger = (keys.new_key(name).with_suffix(".key_secret") for name in ("own", "stranger"))
            server_key = keys.load_key(keys.new_key("server").with_suffix(".key_secret")).public.decode()
            keys.allow("own", "the client")
            access = (keys.keys_folder() / "server.key_secret", keys.default_allow_list())
            public_file = str(keys.keys_folder() / "server.key")
        with ServerProcess("tcp://127.0.0.1:*", [tiny_package], access=access) as server:
            for given in (server_key, public_file):
                config = {"key": str(own), "server_key": given}
                with ClientWorld(tiny_world.spec, server.address, **config) as far, far.open(7) as session:
                    assert session.step(0, math.inf).tick == 0
            assert self.refused(tiny_world, server, key=str(stranger), server_key=server_key) == E_GONE
            assert self.refused(tiny_world, server) == E_GONE
            assert self.refused(tiny_world, server, key=str(own)) == E_START
            assert self.refused(tiny_world, server, key=public_file, server_key=server_key) == E_START
            own.chmod(0o644)
            assert self.refused(tiny_world, server, key=str(own), server_key=server_key) == E_START

    @staticmethod
    def refused(world: World, server: ServerProcess, **config: str) -> int:
        return status_of(ClientWorld, world.spec, server.address, timeout_us=500_000, **config)

    def test_sessions_outlive_their_leases_while_the_process_lives(self, world: ClientWorld) -> None:
        with world.open(7, lease_ms=100) as session:
            session.step(0, math.inf)
            time.sleep(0.5)
            assert session.step(0, math.inf).tick == 1
