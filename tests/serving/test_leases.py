"""The Python client and the leases of its sessions."""

from __future__ import annotations

import gc
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from dsa_runtime import Connection, ServerGoneError, World, connect
from dsa_runtime.serving.heartbeat import Heartbeat
from dsa_runtime.serving.observer import Observer
from tests.play import ACTIONS, play
from tests.serving.lives import Lives
from tests.serving.waiting import until
from tests.stages import WAIT_S


class TestLeases:
    LEASE_MS = 400

    def test_a_session_that_is_not_stepped_lives_as_long_as_its_client(
        self, connection: Connection, expected: list[np.ndarray]
    ) -> None:
        with connection.session(7, lease_ms=self.LEASE_MS) as session:
            frames = play(session, ACTIONS[:4])
            (branch,) = session.fork()
            time.sleep(3 * self.LEASE_MS / 1000)
            for one in (session, branch):
                np.testing.assert_array_equal(frames + play(one, ACTIONS[4:]), expected)
            branch.close()

    def test_closing_while_a_lease_is_being_renewed(
        self, connection: Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        inside, go_on = threading.Event(), threading.Event()

        def beat(*_: object) -> None:
            inside.set()
            assert go_on.wait(WAIT_S)

        monkeypatch.setattr(Heartbeat, "_beat", beat)
        session = connection.session(7, lease_ms=self.LEASE_MS)
        assert inside.wait(WAIT_S)
        session.close()
        closing = threading.Thread(target=connection.close, daemon=True)
        closing.start()
        until(lambda: connection._heartbeat._ended, "it does not begin to close")
        go_on.set()
        closing.join(WAIT_S)
        assert not closing.is_alive()

    def test_a_session_that_is_dropped_is_given_up(self, connection: Connection) -> None:
        session = connection.session(7, lease_ms=self.LEASE_MS)
        session.step(0)
        del session
        gc.collect()
        until(lambda: connection.stats()["reaped"] == 1, "it still lives")

    def test_a_session_that_was_made_again_after_a_call_that_failed(self, tiny_world: World, tmp_path: Path) -> None:
        renewed = threading.Event()

        class Watch(Observer):
            def request(self, type: str, code: str, seconds: float) -> None:
                if type == "ping":
                    renewed.set()

        with (
            Lives(tiny_world, tmp_path, observer=Watch()) as lives,
            connect(lives.server.address, timeout_ms=500) as connection,
            connection.session(7, lease_ms=self.LEASE_MS, recover=True) as session,
        ):
            session.step(0)
            lives.end()
            with pytest.raises(ServerGoneError):
                session.step(1)
            lives.begin()
            session.step(1)
            renewed.clear()
            assert renewed.wait(WAIT_S)

    @pytest.mark.parametrize("recover", [False, True])
    def test_a_client_that_was_frozen(self, connection: Connection, expected: list[np.ndarray], recover: bool) -> None:
        with connection.session(7, lease_ms=self.LEASE_MS, recover=recover, frames="part") as session:
            frames = play(session, ACTIONS[:4])
            connection._heartbeat.close()  # as if
            until(lambda: connection.stats()["reaped"] == 1, "it still lives")
            if recover:
                np.testing.assert_array_equal(frames + play(session, ACTIONS[4:]), expected)
            else:
                with pytest.raises(ServerGoneError, match="lease") as gone:
                    session.step(3)
                assert gone.value.code == "session"
