"""Sessions with `on_miss="repeat"` that outlive their server."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from dsa_runtime import Connection, ServerGoneError, World, connect
from tests.play import ACTIONS, play
from tests.serving.lives import Lives
from tests.stages import WAIT_S, Gate


@pytest.fixture
def connection(lives: Lives) -> Iterator[Connection]:
    with connect(lives.server.address, timeout_ms=WAIT_S * 1000) as connected:
        yield connected


class TestRepeated:
    """With `on_miss="repeat"` the client may not know how many steps a tick took."""

    def test_it_is_known_again_from_the_next_tick_on(
        self, lives: Lives, connection: Connection, tiny_world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with connection.session(7, on_miss="repeat", recover=True) as session:
            frames = play(session, ACTIONS[:3])
            with monkeypatch.context() as patch:
                gate = Gate(patch, "denoise")
                assert session.step(1, 50.0).status == "repeated"
                assert session.step(2, 50.0).status == "skipped"
                gate.open.set()
                frames += play(session, [3])
            assert session._berth._posted is not None  # a checkpoint
            session._berth._collect()
            lives.restart()
            frames += play(session, ACTIONS[3:])
        with tiny_world.session(7) as straight:
            again = play(straight, ACTIONS[:3])
            straight.step(1, math.inf, steps=1)
            np.testing.assert_array_equal(again + play(straight, [3, *ACTIONS[3:]]), frames)

    def test_going_back_to_before_it(
        self, lives: Lives, connection: Connection, expected: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with connection.session(7, on_miss="repeat", history=6, recover=True) as session:
            play(session, ACTIONS[:3])
            with monkeypatch.context() as patch:
                gate = Gate(patch, "denoise")
                assert session.step(1, 50.0).status == "repeated"
                gate.open.set()
                play(session, [3])
            np.testing.assert_array_equal(session.rewind(2), expected[2])
            session._berth._collect()  # the checkpoint
            lives.restart()
            np.testing.assert_array_equal(play(session, ACTIONS[3:]), expected[3:])

    def test_until_then_the_session_cannot_be_made_again(
        self, lives: Lives, connection: Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with connection.session(7, on_miss="repeat", recover=True) as session:
            with monkeypatch.context() as patch:
                gate = Gate(patch, "denoise")
                assert session.step(1, 50.0).status == "repeated"
                gate.open.set()
            lives.restart()
            with pytest.raises(ServerGoneError, match="repeated"):
                session.step(0)
