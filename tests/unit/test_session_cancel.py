"""Session.cancel: a tick can be taken back at every stage, at once, and then it has never been."""

from __future__ import annotations

import math
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from dsa_runtime import CancelledError, DeadlineError, Session, Tick, World, load_world, reply
from dsa_runtime.bindings import Interrupted
from dsa_runtime.job import Job
from dsa_runtime.replay import verify_replay
from dsa_runtime.watchdog import ON_MISS, OnMiss
from dsa_runtime.workspace import Workspace
from tests.stages import WAIT_S, Gate, patch_stage, settle

ACTIONS = [0, 1, 3, 2, 2, 0, 1, 3]
LONG_MS = WAIT_S * 1000
DISTURBED = 2  # the tick that is cancelled


@pytest.fixture(scope="module")
def expected(tiny_world: World) -> list[np.ndarray]:
    with tiny_world.session(7) as undisturbed:
        return [undisturbed.step(action, math.inf).pixels for action in ACTIONS]


@pytest.fixture(scope="module")
def expected_after_late(tiny_world: World) -> list[np.ndarray]:
    """As `expected`, if the deadline left the first tick one step only."""
    with tiny_world.session(7) as undisturbed:
        first = undisturbed.step(ACTIONS[0], math.inf, steps=1).pixels
        return [first, *(undisturbed.step(action, math.inf).pixels for action in ACTIONS[1:])]


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def cancel_once_it_can(session: Session) -> None:
    give_up = time.monotonic() + WAIT_S
    while not session.cancel():
        assert time.monotonic() < give_up, "there never was a call to cancel"
        time.sleep(0.001)


def assert_cancelled(step: Future[Tick]) -> None:
    with pytest.raises(CancelledError):
        step.result(WAIT_S)


@pytest.mark.parametrize("budget_ms", [math.inf, LONG_MS], ids=["no budget", "a budget"])
@pytest.mark.parametrize("on_miss", ON_MISS)
@pytest.mark.parametrize(
    ("stage", "run"),
    [("commit", 1), ("denoise", 1), ("denoise", 3), ("decode", 1)],
    ids=["queued behind a commit", "first step", "third step", "decode"],
)
def test_a_cancelled_tick_has_never_been(
    tiny_world: World,
    thread: ThreadPoolExecutor,
    expected: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    run: int,
    on_miss: OnMiss,
    budget_ms: float,
) -> None:
    with tiny_world.session(7, on_miss=on_miss, record=True) as session:
        cache = tiny_world._cache
        frames = [session.step(action, math.inf).pixels for action in ACTIONS[: DISTURBED - (stage == "commit")]]
        settle(session)
        used = cache.used
        with monkeypatch.context() as patch:
            gate = Gate(patch, stage, run)
            if stage == "commit":
                frames.append(session.step(ACTIONS[DISTURBED - 1], math.inf).pixels)
            step = thread.submit(session.step, 3, budget_ms, steps=4)
            assert gate.inside.wait(WAIT_S)
            cancel_once_it_can(session)
            assert_cancelled(step)  # promptly: while the gate is still closed
            assert session.tick == DISTURBED
            gate.open.set()
            settle(session)
        assert cache.used == used
        frames += [session.step(action, math.inf).pixels for action in ACTIONS[DISTURBED:]]
        np.testing.assert_array_equal(frames, expected)
        assert session.recording is not None
        assert [decision.action for decision in session.recording.decisions] == ACTIONS


def test_cancelled_again_and_again(
    tiny_world: World, thread: ThreadPoolExecutor, expected: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = []
    with tiny_world.session(7) as session:
        for action in ACTIONS:
            for stage, run in (("decode", 1), ("denoise", 1), ("denoise", 2)):
                with monkeypatch.context() as patch:
                    gate = Gate(patch, stage, run)
                    step = thread.submit(session.step, action, math.inf, steps=2)
                    assert gate.inside.wait(WAIT_S)
                    assert session.cancel()
                    assert_cancelled(step)
            frames.append(session.step(action, math.inf).pixels)
    np.testing.assert_array_equal(frames, expected)


def test_who_waits_for_a_late_tick_can_be_cancelled_and_the_late_tick_stays(
    tiny_world: World,
    thread: ThreadPoolExecutor,
    expected_after_late: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tiny_world.session(7, on_miss="repeat", record=True) as session:
        with monkeypatch.context() as patch:
            gate = Gate(patch, "denoise")
            assert session.step(ACTIONS[0], 20.0).status == "repeated"
            assert not session.cancel()  # its call has returned
            step = thread.submit(session.step, 3, LONG_MS)
            cancel_once_it_can(session)
            assert_cancelled(step)
            assert session.tick == 0
            gate.open.set()
        frames = [session.step(action, math.inf).pixels for action in ACTIONS[1:]]
        np.testing.assert_array_equal(frames, expected_after_late[1:])
        assert session.recording is not None
        assert [decision.action for decision in session.recording.decisions] == ACTIONS
        assert verify_replay(tiny_world, session.recording) == len(ACTIONS)


def test_cancelling_who_waits_for_a_late_tick_leaves_no_trace(
    tiny_world: World,
    thread: ThreadPoolExecutor,
    expected_after_late: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Several cancel at once, and the next call waits for the late tick as long as its budget allows."""
    with tiny_world.session(7, on_miss="repeat") as session, monkeypatch.context() as patch:
        gate = Gate(patch, "denoise")
        assert session.step(ACTIONS[0], 20.0).status == "repeated"
        step = thread.submit(session.step, 3, LONG_MS)
        cancel_once_it_can(session)
        for _ in range(3):  # the call is on its way out; whether it can still be cancelled is a matter of time
            session.cancel()
        assert_cancelled(step)
        step = thread.submit(session.step, ACTIONS[1], LONG_MS)
        with pytest.raises(TimeoutError):
            step.result(0.1)
        gate.open.set()
        ticks = [step.result(WAIT_S), session.step(ACTIONS[2], math.inf)]
        assert [tick.status for tick in ticks] == ["ok", "ok"]
        np.testing.assert_array_equal([tick.pixels for tick in ticks], expected_after_late[1:3])


def test_without_a_step_there_is_nothing_to_cancel(tiny_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    session = tiny_world.session(7)
    assert session.cancel() is False
    session.step(0, math.inf)
    assert session.cancel() is False
    settle(session)
    with monkeypatch.context() as patch:
        gate = Gate(patch, "commit")
        first = session.step(1, math.inf).pixels  # its commit is under way
        assert session.cancel() is False
        gate.open.set()
    assert session.tick == 2
    session.close()
    assert session.cancel() is False
    with tiny_world.session(7) as other:
        other.step(0, math.inf)
        np.testing.assert_array_equal(other.step(1, math.inf).pixels, first)


def test_other_calls_cannot_be_cancelled(
    tiny_world: World, thread: ThreadPoolExecutor, expected: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    with tiny_world.session(0) as session, monkeypatch.context() as patch:
        gate = Gate(patch, "commit")
        reset = thread.submit(session.reset, 7)
        assert gate.inside.wait(WAIT_S)
        assert session.cancel() is False
        gate.open.set()
        reset.result(WAIT_S)
        np.testing.assert_array_equal(session.step(ACTIONS[0], math.inf).pixels, expected[0])


@pytest.mark.parametrize("stage", ["denoise", "decode"])
def test_many_threads_cancel_at_once(
    tiny_world: World,
    thread: ThreadPoolExecutor,
    expected: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
) -> None:
    with tiny_world.session(7) as session, ThreadPoolExecutor(8) as cancellers:
        barrier = threading.Barrier(8)

        def cancel(_: int) -> bool:
            barrier.wait(WAIT_S)
            return session.cancel()

        for _ in range(20):
            with monkeypatch.context() as patch:
                gate = Gate(patch, stage)
                step = thread.submit(session.step, 3, math.inf)
                assert gate.inside.wait(WAIT_S)
                assert any(list(cancellers.map(cancel, range(8))))  # all of them, or one would meet the next tick
                assert_cancelled(step)
        frames = [session.step(action, math.inf).pixels for action in ACTIONS]
        np.testing.assert_array_equal(frames, expected)


def test_an_exception_in_the_waiting_thread_cancels_too(
    tiny_world: World, expected: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Ctrl-C does it: a signal handler raises while `step` waits."""
    if not hasattr(signal, "setitimer"):
        pytest.skip("needs POSIX signals")

    class Alarm(BaseException):
        pass

    def ring(*_: Any) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with tiny_world.session(7) as session:
            with monkeypatch.context() as patch:
                gate = Gate(patch, "denoise", 2)
                signal.setitimer(signal.ITIMER_REAL, 0.1)
                with pytest.raises(Alarm):
                    session.step(3, math.inf, steps=4)
                gate.open.set()
                settle(session)
            assert session.tick == 0
            frames = [session.step(action, math.inf).pixels for action in ACTIONS]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    np.testing.assert_array_equal(frames, expected)


# What comes of a cancel that meets the end of the tick, or its deadline.


def test_a_tick_that_was_answered_is_not_undone(
    tiny_world: World, expected_after_late: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cancel` comes when `repeat` has given the tick up, and before the call has returned."""
    answers = []
    real = reply.stale

    def stale(*arguments: Any) -> Tick:
        answers.append(session.cancel())
        return real(*arguments)

    with tiny_world.session(7, on_miss="repeat") as session, monkeypatch.context() as patch:
        gate = Gate(patch, "denoise")
        patch.setattr(reply, "stale", stale)
        assert session.step(ACTIONS[0], 20.0).status == "repeated"
        assert answers == [False]
        threading.Timer(0.1, gate.open.set).start()
        tick = session.step(ACTIONS[1], LONG_MS)
        assert tick.status == "ok"
        np.testing.assert_array_equal(tick.pixels, expected_after_late[1])


@pytest.mark.parametrize("cancelled_first", [True, False])
def test_either_the_deadline_or_a_cancel_undoes_a_tick(
    tiny_world: World, expected: list[np.ndarray], monkeypatch: pytest.MonkeyPatch, cancelled_first: bool
) -> None:
    """Both come in the same moment, and what `cancel` says is what the call raises."""
    answers = []
    real = Job.abandon

    def abandon(job: Job) -> bool:
        if cancelled_first:
            answers.append(session.cancel())
        abandoned = real(job)
        if not cancelled_first:
            answers.append(session.cancel())
        return abandoned

    with tiny_world.session(7, on_miss="raise") as session:
        with monkeypatch.context() as patch:
            Gate(patch, "denoise")
            patch.setattr(Job, "abandon", abandon)
            with pytest.raises(CancelledError if cancelled_first else DeadlineError):
                session.step(3, 20.0)
            assert set(answers) == {cancelled_first}
        frames = [session.step(action, math.inf).pixels for action in ACTIONS]
    np.testing.assert_array_equal(frames, expected)


@pytest.mark.parametrize("on_miss", ON_MISS)
def test_cancel_says_true_exactly_if_the_step_raises(
    tiny_world: World, thread: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, on_miss: OnMiss
) -> None:
    """Ticks of some 4 ms with a budget of 3, cancelled at any time: every outcome is one that was reported."""
    patch_stage(monkeypatch, "denoise", lambda *_: time.sleep(0.001))
    rng = random.Random(4)

    def cancel(after_ms: float) -> bool:
        time.sleep(after_ms / 1000)
        return session.cancel()

    taken, outcomes = [], set()
    with tiny_world.session(7, on_miss=on_miss, record=True) as session:
        for number in range(300):
            action, cancelling = number % 4, thread.submit(cancel, rng.uniform(0.0, 6.0))
            try:
                outcome = session.step(action, 3.0).status
            except (CancelledError, DeadlineError) as error:
                outcome = type(error).__name__
            assert cancelling.result(WAIT_S) == (outcome == "CancelledError"), number
            outcomes.add(outcome)
            if outcome in ("ok", "late", "repeated"):
                taken.append(action)
        tick = session.step(0, math.inf)
        assert (tick.status, tick.tick) == ("ok", len(taken))
        assert {"CancelledError"} < outcomes
        assert session.recording is not None
        assert [decision.action for decision in session.recording.decisions] == [*taken, 0]
        assert verify_replay(tiny_world, session.recording) == len(taken) + 1


def test_cancelled_inside_onnx_runtime(thread: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundled world, nothing held or faked: the run itself is stopped, in a step and in its decoder."""
    inside: list[str] = []

    def watch(stage: str) -> None:
        real: Callable[..., Any] = getattr(Workspace, stage)

        def watched(workspace: Workspace, *arguments: Any) -> Any:
            started = time.perf_counter()
            try:
                return real(workspace, *arguments)
            except Interrupted:
                if time.perf_counter() - started > 5e-4:  # not only refused to begin
                    inside.append(stage)
                raise

        monkeypatch.setattr(Workspace, stage, watched)

    def cancel(after_ms: float) -> bool:
        time.sleep(after_ms / 1000)
        return session.cancel()

    frames = []
    with load_world() as world:
        with world.session(3) as undisturbed:
            expected = [undisturbed.step(action, math.inf, steps=3).pixels for action in ACTIONS]
        watch("denoise")
        watch("decode")
        with world.session(3) as session:
            session.step(ACTIONS[0], math.inf, steps=3)
            rng = random.Random(9)
            for tries in range(400):
                cancelling = thread.submit(cancel, rng.uniform(1.0, 20.0))
                try:
                    session.step(ACTIONS[1], math.inf, steps=3)
                    session.reset(3)
                    session.step(ACTIONS[0], math.inf, steps=3)
                except CancelledError:
                    pass
                cancelling.result(WAIT_S)
                if tries >= 10 and "denoise" in inside:
                    break
            assert "denoise" in inside
            assert session.tick == 1
            session.reset(3)
            for action in ACTIONS:
                frames.append(session.step(action, math.inf, steps=3).pixels)
    np.testing.assert_array_equal(frames, expected)
