"""Sessions and threads: many sessions at once, one session from two threads, growth of the shared pool."""

from __future__ import annotations

import gc
import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsa_runtime import SessionError, World, frame_cache, load_world
from tests.stages import WAIT_S, Gate

ACTIONS = [0, 1, 3, 2] * 5


def play(world: World, seed: int) -> list[np.ndarray]:
    with world.session(seed) as session:
        return [session.step(action, math.inf).pixels for action in ACTIONS]


@pytest.fixture(scope="module", autouse=True)
def quick_collections() -> Iterator[None]:
    """Without what the whole test run has on its heap, torch above all; these tests collect by the hundreds."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def small_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that they grow soon."""
    monkeypatch.setattr(frame_cache, "_FIRST_SESSIONS", 8)


def test_sessions_in_parallel_equal_sessions_in_turn(tiny_package: Path) -> None:
    """Twelve sessions, more than the pool has room for at first, so that it grows while others play."""
    with load_world(tiny_package, threads=1) as world:
        with ThreadPoolExecutor(12) as pool:
            together = list(pool.map(lambda seed: play(world, seed), range(12)))
        for seed, frames in enumerate(together):
            np.testing.assert_array_equal(frames, play(world, seed))


def test_the_pool_may_grow_while_a_session_plays(tiny_package: Path) -> None:
    with load_world(tiny_package, threads=1) as world:
        expected = play(world, 4)
        frames, others, moves = [], [], 0
        with world.session(4) as session:
            for action in ACTIONS:
                frames.append(session.step(action, math.inf).pixels)  # its commit may still be running below
                if moves < 3:
                    pools = world._cache.pools
                    while world._cache.pools is pools:
                        others.append(world.session(1))
                    moves += 1
        for other in others:
            other.close()
        np.testing.assert_array_equal(frames, expected)


def test_a_second_thread_is_refused_and_the_first_is_not_disturbed(
    tiny_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = play(tiny_world, 2)[0]
    with tiny_world.session(2) as session, ThreadPoolExecutor(1) as pool:
        gate = Gate(monkeypatch, "denoise")
        first = pool.submit(session.step, ACTIONS[0], math.inf)
        assert gate.inside.wait(WAIT_S)
        with pytest.raises(SessionError, match="in use by another thread"):
            session.step(0)
        with pytest.raises(SessionError, match="in use by another thread"):
            session.reset(0)
        gate.open.set()
        np.testing.assert_array_equal(first.result().pixels, expected)
        assert session.tick == 1


def test_close_waits_for_a_step_in_another_thread(tiny_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    session = tiny_world.session(2)
    gate = Gate(monkeypatch, "denoise")
    results: list[Any] = []
    stepper = threading.Thread(target=lambda: results.append(session.step(0)))
    stepper.start()
    assert gate.inside.wait(WAIT_S)
    closer = threading.Thread(target=session.close)
    closer.start()
    closer.join(0.05)
    assert closer.is_alive()
    gate.open.set()
    stepper.join()
    closer.join()
    assert len(results) == 1
    with pytest.raises(SessionError, match="closed"):
        session.step(0)


def test_a_frame_is_returned_before_it_is_committed(tiny_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with tiny_world.session(2) as session:
        gate = Gate(monkeypatch, "commit")
        assert session.step(0).tick == 0  # would hang here if the commit came first
        threading.Timer(0.05, gate.open.set).start()
        waited = session.step(0).latency_ms["wait"]
        assert waited > 1.0  # the next step had to wait for it


def test_dropped_sessions_give_their_slots_back(tiny_package: Path) -> None:
    with load_world(tiny_package, threads=1) as world:
        before = world._cache.capacity
        for seed in range(40):  # far more than the pool has room for
            world.session(seed).step(0)
            gc.collect()
        assert world._cache.capacity == before
