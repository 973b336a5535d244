"""libdsa_client: what becomes of sessions when the server goes away."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsa_runtime import CancelledError, Controller, World, load_world
from tests.capi import client
from tests.capi.client import ClientWorld
from tests.capi.far.status import E_GONE, status_of
from tests.chunk_world import PROMPTS, TEXT_WIDTH, write_chunk_world
from tests.play import ACTIONS, play
from tests.serving.lives import Lives
from tests.stages import WAIT_S
from tests.tiny_world import write_tiny_world
from tests.wire_clients.serve import Fate, ServerProcess

REPEAT = 1
TIMEOUT_US = 2_000_000  # of tests in which a server does not come back
TEXT = np.random.default_rng(1).normal(size=(2, TEXT_WIDTH)).astype(np.float32)


def pictures(session: Any, *actions: int) -> np.ndarray:
    return np.stack([session.step(action, math.inf, steps=2).frames for action in actions])


def prompts_in_a_row(session: Any) -> Iterator[np.ndarray]:
    """All of it is repeated from the seed on."""
    yield pictures(session, 1)
    session.set_prompt(TEXT)
    yield pictures(session, 2, 3)
    session.set_prompt(PROMPTS[1])
    session.set_prompt(PROMPTS[0])
    yield pictures(session, 0)
    yield session.reset(5)
    yield pictures(session, 2, 1)


def prompts_in_snapshots(session: Any) -> Iterator[np.ndarray]:
    """A reset shows which prompt is thought to be in force where a snapshot had brought it."""
    session.set_prompt(TEXT)
    yield pictures(session, 2, 3)
    taken = session.snapshot()
    session.set_prompt(PROMPTS[1])
    yield pictures(session, 1, 0, 2)
    [branch] = session.fork(1)
    with branch:
        yield pictures(branch, 1)
        yield branch.reset(3)
        yield pictures(branch, 1)
    yield session.restore(taken)
    yield pictures(session, 3)
    yield session.reset(4)
    yield pictures(session, 3)


class TestRestart:
    def test_a_session_goes_on_as_if_nothing_had_been(
        self, lives: Lives, world: ClientWorld, expected: list[np.ndarray]
    ) -> None:
        with world.open(7, recover=1, checkpoint_ticks=3) as session:
            frames = []
            for number, action in enumerate(ACTIONS):
                if number in (1, 5, 6):
                    lives.restart()
                frames.append(session.step(action, math.inf).pixels)
            assert session.tick == len(ACTIONS)
        np.testing.assert_array_equal(frames, expected)

    @pytest.mark.parametrize("controller", [Controller(threshold=0.5), Controller(policy="fixed", max_steps=3)])
    def test_every_way_of_going_back_is_remembered(
        self, lives: Lives, world: ClientWorld, tiny_world: World, controller: Controller
    ) -> None:
        """The same calls on a local session, and on one whose server restarts before each of them."""
        with tiny_world.session(7, history=4) as near, world.open(7, recover=1, checkpoint_ticks=4, history=4) as far:
            taken = {}

            def act(session: Any) -> Iterator[np.ndarray | None]:
                yield session.step(1, math.inf).pixels
                session.controller = controller
                yield None
                yield session.step(2, math.inf).pixels
                taken[session] = session.snapshot()
                yield None
                yield session.step(3, math.inf).pixels
                yield session.step(1, math.inf).pixels
                yield session.rewind(1)
                yield session.step(0, math.inf).pixels
                yield session.reset(3)
                yield session.step(2, math.inf).pixels
                yield session.restore(taken[session])
                yield session.step(3, math.inf).pixels
                assert session.controller == controller

            steps = act(far)
            for one in act(near):
                lives.restart() if one is None or one.sum() % 2 else None
                other = next(steps)
                assert (one is None) == (other is None)
                if one is not None:
                    np.testing.assert_array_equal(one, other)
            assert (far.tick, far.seed) == (near.tick, near.seed)

    def test_forks_are_remembered_too(self, lives: Lives, world: ClientWorld, expected: list[np.ndarray]) -> None:
        with world.open(7, recover=1) as session:
            frames = play(session, ACTIONS[:4])
            [fork] = session.fork(1)
            lives.restart()
            with fork:
                np.testing.assert_array_equal(frames + play(fork, ACTIONS[4:]), expected)
            np.testing.assert_array_equal(frames + play(session, ACTIONS[4:]), expected)

    @pytest.mark.parametrize("calls", [prompts_in_a_row, prompts_in_snapshots])
    def test_the_prompt_in_force_is_remembered(
        self, tmp_path: Path, calls: Callable[[Any], Iterator[np.ndarray]]
    ) -> None:
        """As above, in a world that takes text."""
        package = write_chunk_world(tmp_path / "chunks", begins_with=1)
        name = client.library().ffi.new("char[]", PROMPTS[1].encode())
        every = 1000 if calls is prompts_in_a_row else 2
        with (
            load_world(package, threads=1) as world,
            Lives(world, tmp_path) as lives,
            ClientWorld(world.spec, lives.server.address) as served,
            world.session(7, prompt=PROMPTS[1]) as near,
            served.open(7, recover=1, checkpoint_ticks=every, prompt=name) as far,
        ):
            for one, other in zip(calls(near), calls(far), strict=True):
                np.testing.assert_array_equal(one, other)
                lives.restart()

    def test_without_recover_it_is_gone_and_another_can_be_opened(
        self, lives: Lives, world: ClientWorld, expected: list[np.ndarray]
    ) -> None:
        with world.open(7) as session:
            play(session, ACTIONS[:2])
            lives.restart()
            assert status_of(session.step, 0, math.inf) == E_GONE
            assert status_of(session.step, 0, math.inf) == E_GONE
        with world.open(7) as session:
            np.testing.assert_array_equal(play(session), expected)

    def test_a_server_that_stays_away_is_waited_for_and_found_later(
        self, lives: Lives, tiny_world: World, expected: list[np.ndarray]
    ) -> None:
        with ClientWorld(tiny_world.spec, lives.server.address, timeout_us=300_000) as far, far.open(7, recover=1) as s:
            frames = play(s, ACTIONS[:3])
            lives.end()
            for _ in range(2):
                assert status_of(s.step, ACTIONS[3], math.inf) == E_GONE
            lives.begin()
            np.testing.assert_array_equal(frames + play(s, ACTIONS[3:]), expected)

    def test_another_world_of_that_name_is_refused(self, tiny_world: World, tmp_path: Path) -> None:
        other = write_tiny_world(tmp_path / "other", sink=1)
        with Lives(tiny_world, tmp_path) as lives:
            address = lives.server.address
            with ClientWorld(tiny_world.spec, address, timeout_us=TIMEOUT_US) as far, far.open(7, recover=1) as session:
                lives.end()
                with load_world(other, threads=1) as impostor, Lives(impostor, tmp_path):
                    assert status_of(session.step, 0, math.inf) == E_GONE

    def test_a_call_that_looks_for_the_server_can_be_cancelled(
        self, lives: Lives, world: ClientWorld, pool: ThreadPoolExecutor, expected: list[np.ndarray]
    ) -> None:
        with world.open(7, recover=1) as session:
            frames = play(session, ACTIONS[:3])
            lives.restart()
            play_on = session.step(ACTIONS[3], math.inf).pixels
            lives.end()
            step = pool.submit(session.step, 0, math.inf)
            # Its request has been sent to nobody; nothing but the timeout of ten seconds would end that.
            give_up = time.monotonic() + WAIT_S
            lives.begin()
            while not step.done() and time.monotonic() < give_up:
                session.cancel()
                time.sleep(0.001)
            try:
                tick = step.result(0)
                assert tick.tick == 4
            except CancelledError:
                assert session.tick == 4
            np.testing.assert_array_equal([*frames, play_on], expected[:4])


class TestProcess:
    """With a server in a process of its own."""

    @pytest.mark.parametrize("fate", [Fate(kill_at=6), Fate(drain_at=6)], ids=["killed", "draining"])
    def test_it_goes_on_where_a_server_ended(
        self,
        tiny_package: Path,
        tiny_world: World,
        private: Path,
        expected: list[np.ndarray],
        fate: Fate,
    ) -> None:
        address = f"ipc://{private}/dsa"
        with ServerProcess(address, [tiny_package], fate) as first:
            far = ClientWorld(tiny_world.spec, address)
            session = far.open(7, recover=1, checkpoint_ticks=4)
            frames = play(session, ACTIONS[:5])
            with ThreadPoolExecutor(1) as pool:
                rest = pool.submit(play, session, ACTIONS[5:])
                before = None if fate.kill_at else first.wait()
                first.wait_killed() if before is None else None
                with ServerProcess(address, [tiny_package]) as second:
                    frames += rest.result(WAIT_S)
                    far.close()
                    again = second.stop()
        np.testing.assert_array_equal(frames, expected)
        # Killed: from the checkpoint at tick 4 on. Drained: from what was handed over, so no tick twice.
        assert again == len(ACTIONS) - (4 if before is None else before)

    def test_a_session_that_repeats_returns_in_time_from_a_frozen_server(
        self, tiny_package: Path, tiny_world: World, expected: list[np.ndarray]
    ) -> None:
        with (
            ServerProcess("tcp://127.0.0.1:*", [tiny_package]) as server,
            ClientWorld(tiny_world.spec, server.address) as far,
            far.open(7, on_miss=REPEAT) as session,
        ):
            frames = play(session, ACTIONS[:3])
            os.kill(server._process.pid, signal.SIGSTOP)
            try:
                first, second = session.step(ACTIONS[3], 50.0), session.step(2, 50.0)
            finally:
                os.kill(server._process.pid, signal.SIGCONT)
            assert [first.status, second.status] == ["repeated", "skipped"]
            assert [first.tick, second.tick] == [3, 4]
            assert [first.frame_tick, second.frame_tick] == [2, 2]
            for tick in (first, second):
                np.testing.assert_array_equal(tick.pixels, frames[2])
            third = session.step(ACTIONS[4], math.inf)
            assert (third.tick, third.frame_tick, third.status) == (4, 4, "ok")
            assert session.tick == 5

    def test_threads_each_with_a_session(
        self, server: ServerProcess, tiny_world: World, pool: ThreadPoolExecutor
    ) -> None:
        def walk(far: ClientWorld, seed: int) -> list[np.ndarray]:
            with far.open(seed) as session:
                return play(session)

        with ClientWorld(tiny_world.spec, server.address) as far:
            together = list(pool.map(lambda seed: walk(far, seed), range(4)))
            for seed in range(4):
                with tiny_world.session(seed) as alone:
                    np.testing.assert_array_equal(together[seed], play(alone))
