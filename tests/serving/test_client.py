"""The Python client: what goes beyond a session in this process. What both have in common is in tests/behaviour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsa_runtime import BusyError, Connection, ServerError, SessionError, World, connect
from dsa_runtime.serving import answers
from dsa_runtime.serving.server import Server
from tests.play import play
from tests.serving.lives import Lives
from tests.serving.serve import private
from tests.serving.waiting import until
from tests.stages import WAIT_S


class TestOptions:
    def test_no_room(self, tiny_world: World, tmp_path: Path) -> None:
        with Lives(tiny_world, tmp_path, max_sessions=1) as lives, connect(lives.server.address) as connection:
            with connection.session(), pytest.raises(BusyError) as refused:
                connection.session()
            assert (refused.value.code, refused.value.retry) == ("capacity", True)
            connection.session().close()

    @pytest.mark.parametrize(
        ("options", "error", "match"),
        [
            ({"frames": "gif"}, SessionError, "frames"),
            ({"quality": 100}, SessionError, "quality"),
            ({"lease_ms": 0}, SessionError, "lease_ms"),
            ({"recover": True, "checkpoint_ticks": 0}, SessionError, "checkpoint_ticks"),
            ({"checkpoint_ticks": 9}, SessionError, "recover=True"),
            ({"publish": True}, ServerError, "publish"),
            ({"lease_ms": 1 << 39}, ServerError, "lease_ms"),
        ],
    )
    def test_what_makes_no_sense_is_refused(
        self, connection: Connection, options: dict[str, Any], error: type[Exception], match: str
    ) -> None:
        with pytest.raises(error, match=match):
            connection.session(**options)
        until(lambda: connection.stats()["sessions"] == 0, "a session was left behind")

    def test_spectators_see_what_is_published(self, tiny_world: World, tmp_path: Path) -> None:
        publish = f"ipc://{tmp_path}/frames"
        with Lives(tiny_world, tmp_path, publish=publish) as lives, connect(lives.server.address) as connection:
            assert connection.publish_address == publish
            with connection.session(7, publish=True) as session, connection.session(7) as other:
                assert other.topic is None and session.topic is not None
                with connection.spectator(session.topic) as spectator:
                    while (seen := spectator.receive(20)) is None:
                        tick = session.step(0)
                    while seen.tick != tick.tick:  # the newest one is still on its way
                        newer = spectator.receive(int(WAIT_S * 1000))
                        assert newer is not None
                        seen = newer
                np.testing.assert_array_equal(seen.pixels, tick.pixels)

    def test_without_a_publisher_there_are_no_spectators(self, connection: Connection) -> None:
        with pytest.raises(SessionError, match="--publish"):
            connection.spectator(b"12345678")


class TestFrames:
    @pytest.mark.parametrize("frames", ["part", "shm", "png", "auto"])
    def test_every_way_brings_the_same_pixels(
        self, served: Server, connection: Connection, expected: list[np.ndarray], frames: Any
    ) -> None:
        assert served.config.ring_folder is not None
        with connection.session(7, frames=frames) as session:
            assert bool(list(served.config.ring_folder.glob("*.ring"))) == (frames in ("shm", "auto"))
            np.testing.assert_array_equal(play(session), expected)
            picture = session.rewind(0)
            np.testing.assert_array_equal(picture, expected[-1])
        until(lambda: not list(served.config.ring_folder.glob("*.ring")), "a ring was left behind")

    def test_jpeg_is_near_and_its_quality_counts(self, connection: Connection, expected: list[np.ndarray]) -> None:
        errors = []
        for quality in (10, 95):
            with connection.session(7, frames="jpeg", quality=quality) as session:
                errors.append(np.abs(np.array(play(session), int) - np.array(expected)).mean())
        assert 0 < errors[1] < errors[0]
        assert errors[1] < 8

    def test_a_fork_has_a_ring_of_its_own(
        self, served: Server, connection: Connection, expected: list[np.ndarray]
    ) -> None:
        assert served.config.ring_folder is not None
        with connection.session(7, frames="shm") as session:
            (branch,) = session.fork()
            assert len(list(served.config.ring_folder.glob("*.ring"))) == 2
            with branch:
                np.testing.assert_array_equal(play(branch), play(session))

    def test_a_ring_that_cannot_be_reached_is_done_without(
        self, served: Server, expected: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As from another container, or through a tunnel."""

        def unreachable(path: str, token: int) -> None:
            raise FileNotFoundError(path)

        monkeypatch.setattr(answers, "FrameReader", unreachable)
        with connect(served.address) as connection, connection.session(7, frames="shm", recover=True) as session:
            np.testing.assert_array_equal(play(session), expected)
            (branch,) = session.fork()
            np.testing.assert_array_equal(play(branch), play(session))
            branch.close()

    @pytest.mark.parametrize("recover", [False, True])
    def test_where_no_ring_can_be_made_auto_has_them_sent(
        self, tiny_world: World, tmp_path: Path, expected: list[np.ndarray], recover: bool
    ) -> None:
        rings = private(tmp_path / "rings")
        with Lives(tiny_world, tmp_path) as lives, connect(lives.server.address) as connection:
            parent = connection.session(7)
            rings.chmod(0o755)  # which is not private, and refused
            with connection.session(7, recover=recover) as session, parent:
                np.testing.assert_array_equal(play(session), expected)
                (branch,) = parent.fork()
                with branch:
                    np.testing.assert_array_equal(play(branch), expected)
            with pytest.raises(BusyError, match=r"frames: no shared memory \(.*mode 0700"):
                connection.session(frames="shm")
            assert connection.stats()["sessions"] == 0

    def test_large_frames_are_read_without_a_copy_and_are_the_callers_all_the_same(
        self, connection: Connection, expected: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dsa_runtime.serving.channel._COPY_BELOW", 1)
        with connection.session(7, frames="part") as session:
            frames = play(session)
            assert all(frame.flags.writeable and frame.flags.owndata for frame in frames)
            np.testing.assert_array_equal(frames, expected)
