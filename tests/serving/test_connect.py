"""Connecting to a server, with keys and without."""

from __future__ import annotations

import gc
import math
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsa_runtime import Connection, ServerGoneError, ServingError, SessionError, World, connect
from dsa_runtime.serving import keys
from dsa_runtime.serving.security import Access
from dsa_runtime.serving.server import Server
from tests.play import play
from tests.serving.lives import Lives


class TestConnect:
    def test_it_says_what_the_server_has(self, connection: Connection, tiny_world: World) -> None:
        (world,) = connection.worlds
        assert (world.name, world.fingerprint) == ("tiny", tiny_world.spec.fingerprint)
        assert connection.spec == tiny_world.spec
        assert connection.spec_of("tiny") is connection.spec
        assert connection.ping() > 0
        with connection.session() as session:
            session.step(0)
            assert connection.stats()["sessions"] == 1
        assert connection.stats()["sessions"] == 0
        assert connection.publish_address is None
        with pytest.raises(SessionError, match="the server has tiny, got 'huge'"):
            connection.session(world="huge")

    def test_nobody_there(self, tmp_path: Path) -> None:
        with pytest.raises(ServerGoneError, match=r"no answer to 'hello' for 0\.3 s"):
            connect(f"ipc://{tmp_path}/nobody", timeout_ms=300)

    @pytest.mark.parametrize(
        ("options", "error", "match"),
        [
            ({"address": "localhost:5577"}, ServingError, "tcp://HOST:PORT"),
            ({"address": "tcp://localhost"}, ServingError, "tcp://HOST:PORT"),
            ({"address": "tcp://127.0.0.1:99999"}, ServingError, "address"),
            ({"timeout_ms": 0}, ServingError, "timeout_ms"),
            ({"timeout_ms": math.inf}, ServingError, "timeout_ms"),
            ({"frames": "gif"}, SessionError, "frames"),
            ({"key": "mine"}, ServingError, "server_key"),
            ({"server_key": "theirs"}, ServingError, "^key"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, options: dict[str, Any], error: type[Exception], match: str) -> None:
        with pytest.raises(error, match=match):
            connect(**{"address": "ipc:///nowhere", **options})

    def test_it_brings_no_engine_along(self) -> None:
        """A client is small: it starts fast, and needs no memory for what runs elsewhere."""
        code = "import sys, dsa_runtime; dsa_runtime.connect; dsa_runtime.RemoteSession; print(*sys.modules)"
        loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        assert "zmq" in loaded
        assert not {"onnxruntime", "dsa_runtime.engine", "dsa_runtime.session"} & set(loaded)

    def test_a_connection_that_is_dropped_leaves_no_thread(self, served: Server) -> None:
        dropped = connect(served.address)
        session = dropped.session()
        thread = dropped._heartbeat._thread
        gone = weakref.ref(dropped)
        session.close()
        del dropped, session
        gc.collect()
        assert gone() is None
        assert thread is not None and not thread.is_alive()


class TestKeys:
    """A server with CURVE answers those alone who know its key and are on its list."""

    @pytest.fixture
    def locked(self, tiny_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lives]:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        for name in ("server", "friend", "stranger"):
            keys.new_key(name)
        keys.allow("friend")
        access = Access.load("server", keys.default_allow_list())
        publish = f"ipc://{tmp_path}/frames"
        with Lives(tiny_world, tmp_path, bind="tcp://127.0.0.1:*", access=access, publish=publish) as lives:
            yield lives

    def test_who_is_on_the_list_plays_and_looks_on(self, locked: Lives, expected: list[np.ndarray]) -> None:
        with (
            connect(locked.server.address, key="friend", server_key=keys.public_key("server").decode()) as connection,
            connection.session(7, publish=True) as session,
        ):
            np.testing.assert_array_equal(play(session), expected)
            assert session.topic is not None
            with connection.spectator(session.topic) as spectator:
                while (seen := spectator.receive(20)) is None:
                    session.step(0)
                assert seen.pixels.shape == (8, 8, 3)

    def test_others_get_no_answer(self, locked: Lives) -> None:
        for options in ({}, {"key": "stranger", "server_key": "server"}, {"key": "friend", "server_key": "friend"}):
            with pytest.raises(ServerGoneError, match="no answer"):
                connect(locked.server.address, timeout_ms=400, **options)
