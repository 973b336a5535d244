"""Runner: how many threads sessions need, and that none outlives its use or spoils the end of a program."""

from __future__ import annotations

import gc
import itertools
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsa_runtime import EngineError, Session, World, load_world
from dsa_runtime.runner import Lease, Runner, RunnerPool
from dsa_runtime.workspace import Workspace
from tests.stages import WAIT_S, Gate, patch_stage, settle
from tests.tiny_world import write_tiny_world

ACTIONS = [0, 1, 3, 2]


_numbers = itertools.count()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A world whose threads can be told from others by their name."""
    return write_tiny_world(tmp_path / "tiny", name=f"runner-{next(_numbers)}")


@pytest.fixture
def world(package: Path) -> Iterator[World]:
    with load_world(package, threads=1) as opened:
        yield opened


def runners(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == f"dsa-{name}"]


def until(reached: Callable[[], bool]) -> None:
    give_up = time.monotonic() + WAIT_S
    while not reached():
        assert time.monotonic() < give_up
        time.sleep(0.001)


def all_idle(world: World) -> bool:
    """Whether every runner was given back, which happens a moment after its last task."""
    return len(world._runtimes[1].runners._idle) == len(runners(world.spec.name))


def play(session: Session) -> list[np.ndarray]:
    return [session.step(action, math.inf).pixels for action in ACTIONS]


class TestHowMany:
    def test_a_world_has_none_before_its_first_session(self, world: World) -> None:
        assert not runners(world.spec.name)

    def test_sessions_that_take_turns_share_one(self, world: World) -> None:
        name = world.spec.name
        sessions = []
        for seed in range(10):
            sessions.append(world.session(seed))
            until(lambda: all_idle(world))
        for _ in range(3):
            for session in sessions:
                session.step(0, math.inf)
                settle(session)
                until(lambda: all_idle(world))
        assert len(runners(name)) == 1
        for session in sessions:
            session.close()

    def test_a_thousand_branches_need_no_more_than_their_parent(self, world: World) -> None:
        with world.session(0) as parent:
            until(lambda: all_idle(world))
            branches = parent.fork(1000)
            assert len(runners(world.spec.name)) == 1
            for branch in branches[:100]:
                branch.step(0, math.inf)  # while the commit of the one before may be running
            assert len(runners(world.spec.name)) < 10
            for branch in branches:
                branch.close()

    def test_sessions_that_play_at_once_have_their_own(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        sessions = [world.session(seed) for seed in range(3)]
        meeting = threading.Barrier(3)  # opens when all three are inside at the same time
        with monkeypatch.context() as patch, ThreadPoolExecutor(3) as pool:
            patch_stage(patch, "denoise", lambda *_: meeting.wait(WAIT_S))
            list(pool.map(lambda session: session.step(0, math.inf, steps=2), sessions))
        assert len(runners(world.spec.name)) == 3
        for session in sessions:  # and from now on there are enough
            settle(session)
        until(lambda: all_idle(world))
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(play, sessions))
        assert len(runners(world.spec.name)) == 3
        for session in sessions:
            session.close()

    def test_a_session_does_not_wait_for_anothers_commit(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        with world.session(0) as one, world.session(1) as other, monkeypatch.context() as patch:
            gate = Gate(patch, "commit")
            one.step(0, math.inf)
            assert gate.inside.wait(WAIT_S)
            other.step(0, math.inf)  # would hang here
            gate.open.set()

    def test_a_session_comes_back_to_the_runner_that_holds_its_noise(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with world.session(0) as one, world.session(1) as other:
            with monkeypatch.context() as patch, ThreadPoolExecutor(1) as pool:
                gate = Gate(patch, "denoise")
                step = pool.submit(one.step, 0, math.inf)
                assert gate.inside.wait(WAIT_S)
                patch.undo()
                other.step(0, math.inf)  # on a second runner
                gate.open.set()
                step.result(WAIT_S)
            settle(one)
            settle(other)
            until(lambda: all_idle(world))
            seen: list[Workspace] = []
            patch_stage(monkeypatch, "denoise", lambda workspace, _: seen.append(workspace))
            for session in (one, other, one, other):
                session.step(0, math.inf, steps=1)
                settle(session)
                until(lambda: all_idle(world))
        assert seen[0] is seen[2] is not seen[1] is seen[3]


class TestTheEndOfThreads:
    def test_closing_a_world_ends_them(self, world: World) -> None:
        for seed in range(3):
            with world.session(seed) as session:
                session.step(0)
        world.close()
        until(lambda: not runners(world.spec.name))
        world.close()

    def test_also_one_that_is_only_just_being_given_back(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """A caller is woken by its task's result, and its runner is given back after that."""
        real = RunnerPool.give_back

        def slowly(pool: RunnerPool, runner: Runner) -> None:
            time.sleep(0.05)
            real(pool, runner)

        monkeypatch.setattr(RunnerPool, "give_back", slowly)
        with world.session(0) as session:
            session.step(0)
        world.close()
        until(lambda: not runners(world.spec.name))

    def test_a_forgotten_world_and_its_sessions_end_them(self, package: Path) -> None:
        world = load_world(package, threads=1)
        name, sessions = world.spec.name, [world.session(seed) for seed in range(3)]
        for session in sessions:
            session.step(0)  # its commit may be running when it is forgotten
        assert runners(name)
        del world, session, sessions

        def ended() -> bool:
            gc.collect()
            return not runners(name)

        until(ended)

    def test_a_session_keeps_what_it_needs_of_a_forgotten_world(self, tmp_path: Path, tiny_world: World) -> None:
        session = load_world(write_tiny_world(tmp_path / "tiny"), threads=1).session(3)
        gc.collect()
        with session, tiny_world.session(3) as other:
            np.testing.assert_array_equal(play(session), play(other))


class TestLease:
    @pytest.fixture
    def pool(self, tiny_world: World) -> RunnerPool:
        return RunnerPool(tiny_world._runtimes[1].engine, tiny_world._cache)

    def test_results_and_errors_come_back(self, pool: RunnerPool) -> None:
        def fail(_: Runner) -> None:
            raise EngineError("made to fail")

        lease = Lease(pool)
        assert lease.call(lambda runner: runner.sampler) is lease.call(lambda runner: runner.sampler)
        with pytest.raises(EngineError, match="made to fail"):
            lease.call(fail)
        assert lease.call(lambda _: 3) == 3
        pool.close()

    def test_tasks_run_in_order_on_one_runner(self, pool: RunnerPool) -> None:
        lease, order = Lease(pool), []
        for number in range(50):
            lease.post(lambda runner, number=number: order.append((number, runner)))  # type: ignore[misc]
        lease.drain()
        assert [number for number, _ in order] == list(range(50))
        assert len({runner for _, runner in order}) == 1  # even if it came to the end before all were posted
        until(lambda: len(pool._idle) == 1)
        pool.close()

    def test_it_is_borrowed_only_while_there_is_something_to_do(self, pool: RunnerPool) -> None:
        leases = [Lease(pool) for _ in range(5)]
        for lease in leases:
            lease.call(lambda _: None)
            until(lambda: len(pool._idle) == 1)
        go = threading.Event()
        leases[0].post(lambda _: go.wait(WAIT_S) and None)
        assert not pool._idle
        first = pool.borrow()
        go.set()
        leases[0].drain()
        until(lambda: len(pool._idle) == 1)
        assert pool._idle[0] is not first
        pool.give_back(first)
        pool.close()

    def test_a_task_that_fails_by_a_defect_does_not_end_the_thread(
        self, pool: RunnerPool, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(_: Runner) -> None:
            raise ZeroDivisionError("a defect")

        lease = Lease(pool)
        lease.post(fail)
        assert lease.call(lambda _: 3) == 3
        assert "a defect" in caplog.text
        until(lambda: len(pool._idle) == 1)
        pool.close()

    def test_closing_a_runner_finishes_what_was_posted(self, pool: RunnerPool) -> None:
        runner, done = pool.borrow(), []
        for number in range(10):
            runner.post(lambda number=number: done.append(number))  # type: ignore[misc]
        runner.close()
        runner.close()
        assert done == list(range(10))


PROGRAM = """
import math, sys, threading, time
from dsa_runtime import load_world
from dsa_runtime.workspace import Workspace

world = load_world({package!r} or None, threads=1)
session = world.session(3, **{options!r})
session.step(0, math.inf)
{rest}
"""
SLOWLY = """
real = Workspace.{stage}
def slowly(*arguments):
    inside.set()
    time.sleep(0.3)
    return real(*arguments)
inside = threading.Event()
session.snapshot()
Workspace.{stage} = slowly
"""
ENDINGS = {
    "nothing closed": "",
    "a commit under way": SLOWLY.format(stage="commit") + "session.step(1)\ninside.wait()",
    "a late tick under way": SLOWLY.format(stage="denoise") + "assert session.step(1, 50.0).status == 'repeated'",
    "a step in another thread": SLOWLY.format(stage="denoise")
    + "threading.Thread(target=session.step, args=(1,)).start()\ninside.wait()",
    "a step in a daemon thread": SLOWLY.format(stage="denoise")
    + "threading.Thread(target=session.step, args=(1,), daemon=True).start()\ninside.wait()",
    "many sessions": "for seed in range(5):\n    world.session(seed).step(0)\nsession.fork(9)[3].step(0)",
    "forgotten sessions": "for _ in range(5):\n    world.session(0).step(0)\ndel session",
    "only the world closed": "world.close()",
    "only the session closed": "session.close()",
    "a cycle": "session.me = session\nworld.session = session\ndel world, session",
    "a cancelled step": SLOWLY.format(stage="denoise")
    + "threading.Timer(0.1, session.cancel).start()\ntry:\n    session.step(1)\nexcept Exception:\n    pass",
    "sys.exit": "session.step(1)\nsys.exit()",
}


REAL_ENDINGS = {
    "a commit under way": "session.step(1, math.inf)",
    "ticks under way": "for branch in session.fork(8):\n    branch.step(1, 1.0)",
    "a reset": "session.reset(2)",
    "threads that play on": """
def play(session):
    while True:
        session.step(1, math.inf)
for branch in session.fork(3):
    threading.Thread(target=play, args=(branch,), daemon=True).start()
time.sleep(0.3)
""",
}


def run_program(package: str, rest: str, options: dict[str, Any]) -> None:
    program = PROGRAM.format(package=package, options=options, rest=rest)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")


class TestTheEndOfAProgram:
    """It ends with status 0 and in silence, whatever was left open."""

    @pytest.mark.parametrize("how", ENDINGS)
    def test_of_the_tiny_world(self, tiny_package: Path, how: str) -> None:
        run_program(str(tiny_package), ENDINGS[how], {"on_miss": "repeat"})

    @pytest.mark.parametrize("how", REAL_ENDINGS)
    def test_of_the_bundled_world(self, how: str) -> None:
        """Nothing is slowed down here: threads are inside ONNX Runtime when the program's last line has been run."""
        run_program("", REAL_ENDINGS[how], {"on_miss": "repeat"})

    def test_an_error_that_ends_it_is_all_that_is_said(self, tiny_package: Path) -> None:
        program = PROGRAM.format(package=str(tiny_package), options={}, rest="session.step(1)\nsession.step(99)")
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
        assert result.returncode == 1
        assert result.stderr.startswith("Traceback") and "ActionError" in result.stderr.splitlines()[-1]
        assert result.stderr.count("Traceback") == 1
