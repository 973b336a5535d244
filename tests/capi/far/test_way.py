"""libdsa_client: what happens between it and the server."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dsa_runtime import CancelledError, DsaError, World
from dsa_runtime.serving.wire import Message
from tests.capi.client import ClientWorld
from tests.play import ACTIONS, play
from tests.serving.lives import Lives
from tests.serving.relay import Relay, relayed
from tests.stages import WAIT_S, Gate

PART = 1


class TestTheWay:
    """What happens between the client and the server."""

    @pytest.fixture
    def relay(self, lives: Lives, private: Path) -> Iterator[Relay]:
        with relayed(lives.server.address, private) as between:
            yield between

    def test_what_is_lost_is_asked_again_and_happens_once(
        self, relay: Relay, tiny_world: World, expected: list[np.ndarray]
    ) -> None:
        lost: set[tuple[str, int]] = set()

        def lose(message: Message) -> bool:
            """The first of each step and snapshot, there and back."""
            key = (message.type, message.id)
            if message.type not in ("step", "frame", "snapshot") or key in lost:
                return True
            lost.add(key)
            return False

        relay.requests = relay.replies = lose
        far = ClientWorld(tiny_world.spec, relay.address, frames=PART)
        with far, far.open(7, recover=1, checkpoint_ticks=2) as session:
            np.testing.assert_array_equal(play(session, ACTIONS[:4]), expected[:4])
        assert len(lost) >= 8

    @pytest.mark.parametrize("seed", range(2))
    def test_replies_that_make_no_sense_end_in_errors(self, relay: Relay, tiny_world: World, seed: int) -> None:
        rng = np.random.default_rng(seed)

        def spoil(parts: list[bytes]) -> list[bytes]:
            nonlocal spoilt
            if rng.random() < 0.5:
                return parts
            spoilt += 1
            parts = [bytearray(part) for part in parts]  # type: ignore[misc]
            for _ in range(int(rng.integers(1, 6))):
                part = parts[int(rng.integers(len(parts)))]
                if len(part):
                    part[int(rng.integers(len(part)))] = int(rng.integers(256))  # type: ignore[index]
            if rng.random() < 0.2:
                parts = parts[: int(rng.integers(1, len(parts) + 1))]
            if rng.random() < 0.2:
                parts[-1] = parts[-1][: int(rng.integers(0, len(parts[-1]) + 1))]
            return [bytes(part) for part in parts]

        spoilt = 0
        for early in (True, False):
            far = ClientWorld(tiny_world.spec, relay.address, frames=PART, timeout_us=200_000)
            try:
                relay.change = spoil if early else relay.change
                with far.open(7, recover=1, checkpoint_ticks=2) as session:
                    relay.change = spoil
                    for action in ACTIONS[:6]:
                        session.step(action, math.inf)
                    session.restore(session.snapshot())
            except (DsaError, KeyError):  # a status that the tests' host has no name for, or one that it knows
                pass
            finally:
                relay.change = lambda parts: parts
                far.close()
        assert spoilt > 0
        with ClientWorld(tiny_world.spec, relay.address) as far, far.open(7) as session:
            assert session.step(0, math.inf).tick == 0

    def test_a_step_is_stopped_at_the_server(
        self, lives: Lives, world: ClientWorld, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with world.open(7) as session, monkeypatch.context() as patch:
            gate = Gate(patch, "denoise")
            step = pool.submit(session.step, 3, math.inf)
            assert gate.inside.wait(WAIT_S)
            give_up = time.monotonic() + WAIT_S
            while not session.cancel():
                assert time.monotonic() < give_up
                time.sleep(0.001)
            with pytest.raises(CancelledError):
                step.result(WAIT_S)
