"""Batched sessions: the frames of sessions on their own, made in common rounds; one's fault is not another's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event
from time import sleep

import numpy as np
import pytest

from dsa_runtime import (
    CancelledError,
    Controller,
    DeadlineError,
    EngineError,
    Session,
    SessionError,
    World,
    frame_cache,
    load_world,
)
from dsa_runtime.batch import Batch
from dsa_runtime.batch_costs import BatchCosts
from dsa_runtime.ops import library
from dsa_runtime.replay import verify_replay
from tests.stages import WAIT_S

SESSIONS = 6
ACTIONS = [0, 1, 3, 2, 2, 0, 1, 3]
THRESHOLDS = [0.0, 0.3, 0.5, 0.7, 0.9, 1.0]


def settings(index: int) -> dict[str, float]:
    return {"seed": index, "threshold": THRESHOLDS[index]}


@pytest.fixture(scope="module")
def alone(tiny_world: World) -> list[list[np.ndarray]]:
    """Per session its frames, had it been on its own."""
    frames = []
    for index in range(SESSIONS):
        with tiny_world.session(**settings(index)) as session:  # type: ignore[arg-type]
            frames.append([session.step(action, math.inf).pixels for action in ACTIONS])
    return frames


@pytest.fixture
def batched(tiny_world: World) -> Iterator[list[Session]]:
    sessions = [tiny_world.session(**settings(index), batched=True) for index in range(SESSIONS)]  # type: ignore[arg-type]
    yield sessions
    for session in sessions:
        session.close()


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows every round had."""
    seen: list[int] = []
    real = Batch.denoise

    def denoise(batch: Batch, n: int) -> int:
        seen.append(n)
        return real(batch, n)

    monkeypatch.setattr(Batch, "denoise", denoise)
    return seen


def play_together(sessions: list[Session], actions: list[int] = ACTIONS) -> list[list[np.ndarray]]:
    """Every session on a thread of its own, each tick begun at the same time."""
    barrier = Barrier(len(sessions))

    def play(session: Session) -> list[np.ndarray]:
        frames = []
        for action in actions:
            barrier.wait(WAIT_S)
            frames.append(session.step(action, math.inf).pixels)
        return frames

    with ThreadPoolExecutor(len(sessions)) as pool:
        return list(pool.map(play, sessions))


def test_frames_are_those_of_sessions_alone(
    batched: list[Session], alone: list[list[np.ndarray]], sizes: list[int]
) -> None:
    assert all(session.batched for session in batched)
    np.testing.assert_array_equal(play_together(batched), alone)
    assert max(sizes) > 1, "nothing was ever run together"
    assert sum(sizes) < SESSIONS * len(ACTIONS) * 4, "thresholds were not asked"


def test_more_sessions_than_rows(tiny_package: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[int]) -> None:
    """With 20 sessions, rows for 16 and pools that grow meanwhile, everybody's turn comes."""
    monkeypatch.setattr(frame_cache, "_FIRST_SESSIONS", 8)
    with load_world(tiny_package, threads=1) as world:
        sessions = [world.session(seed, batched=True) for seed in range(20)]
        frames = play_together(sessions, ACTIONS[:3])
        for seed, session in enumerate(sessions):
            session.close()
            with world.session(seed) as single:
                np.testing.assert_array_equal(frames[seed], [single.step(a, math.inf).pixels for a in ACTIONS[:3]])
        assert max(sizes) <= 16
        assert world._cache.used == 0


def test_everything_between_ticks(tiny_world: World, batched: list[Session]) -> None:
    """Rewind, fork, snapshot, restore and reset see a session that is settled, and give one that goes on right."""
    with tiny_world.session(3, history=4, batched=True) as session, tiny_world.session(3) as plain:
        expected = [plain.step(action, math.inf).pixels for action in ACTIONS]
        for action in ACTIONS[:4]:
            session.step(action, math.inf)
        np.testing.assert_array_equal(session.rewind(2), expected[1])
        snapshot = session.snapshot()
        (branch,) = session.fork()
        with branch:
            assert branch.batched
            np.testing.assert_array_equal([branch.step(a, math.inf).pixels for a in ACTIONS[2:]], expected[2:])
        other = batched[0]
        other.step(1)
        other.restore(snapshot)
        np.testing.assert_array_equal([other.step(a, math.inf).pixels for a in ACTIONS[2:]], expected[2:])
        session.reset(3)
        np.testing.assert_array_equal([session.step(a, math.inf).pixels for a in ACTIONS], expected)


def test_steps_and_recordings(tiny_world: World) -> None:
    with tiny_world.session(5, batched=True, record=True) as session:
        assert [session.step(k % 4, math.inf, steps=k).steps for k in (1, 2, 3, 4)] == [1, 2, 3, 4]
        session.step(1, budget_ms=0.001)
        assert session.recording is not None
        assert verify_replay(tiny_world, session.recording) == 5


def test_a_small_budget_means_one_step(tiny_world: World) -> None:
    with tiny_world.session(5, threshold=1.0, batched=True) as session:
        tick = session.step(0, budget_ms=0.001)
        assert (tick.steps, tick.stopped_by, tick.status) == (1, "budget", "late")
        assert tick.latency_ms["total"] >= sum(tick.latency_ms["denoise"]) + tick.latency_ms["decode"]


def test_another_ones_fault(batched: list[Session], alone: list[list[np.ndarray]]) -> None:
    """One session's table points outside the pool: its call fails, the ticks of its round do not."""
    frames = play_together(batched, ACTIONS[:2])
    for session in batched:
        session._seat.drain()  # type: ignore[union-attr]
    broken, slots = batched[2], batched[2]._window._slots
    broken._window._slots = (10**6, *slots[1:])
    barrier = Barrier(SESSIONS)

    def step(session: Session) -> np.ndarray | EngineError:
        barrier.wait(WAIT_S)
        try:
            return session.step(ACTIONS[2], math.inf).pixels
        except EngineError as error:
            return error

    with ThreadPoolExecutor(SESSIONS) as pool:
        third = list(pool.map(step, batched))
    assert isinstance(third[2], EngineError)
    broken._window._slots = slots
    third[2] = broken.step(ACTIONS[2], math.inf).pixels
    rest = play_together(batched, ACTIONS[3:])
    for index, expected in enumerate(alone):
        np.testing.assert_array_equal([*frames[index], third[index], *rest[index]], expected)


def test_a_commit_that_fails_is_repeated(
    tiny_world: World, alone: list[list[np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with tiny_world.session(**settings(1), batched=True) as session:  # type: ignore[arg-type]
        frames = [session.step(action, math.inf).pixels for action in ACTIONS[:2]]
        session._seat.drain()  # type: ignore[union-attr]
        used = tiny_world._cache.used
        with monkeypatch.context() as patch:
            patch.setattr(Batch, "_run_bound", _failing("commit", Batch._run_bound))
            frames.append(session.step(ACTIONS[2], math.inf).pixels)
            for _ in range(2):
                with pytest.raises(EngineError, match="made to fail"):
                    session.step(ACTIONS[3], math.inf)
            assert session.tick == 3
        frames += [session.step(action, math.inf).pixels for action in ACTIONS[3:]]
        session._seat.drain()  # type: ignore[union-attr]
        assert tiny_world._cache.used == used
    np.testing.assert_array_equal(frames, alone[1])


@pytest.mark.parametrize("stage", ["denoise", "decode"])
def test_a_stage_that_fails_changes_nothing(
    tiny_world: World, alone: list[list[np.ndarray]], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    with tiny_world.session(**settings(4), batched=True) as session:  # type: ignore[arg-type]
        frames = [session.step(action, math.inf).pixels for action in ACTIONS[:2]]
        with monkeypatch.context() as patch:
            patch.setattr(Batch, "_run_bound", _failing(stage, Batch._run_bound))
            with pytest.raises(EngineError, match="made to fail"):
                session.step(ACTIONS[2], math.inf)
        frames += [session.step(action, math.inf).pixels for action in ACTIONS[2:]]
    np.testing.assert_array_equal(frames, alone[4])


def test_a_confidence_that_is_no_number(tiny_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Batch.denoise

    def poisoned(batch: Batch, n: int) -> int:
        cost_ns = real(batch, n)
        batch.logits[:n] = np.nan
        return cost_ns

    with tiny_world.session(0, batched=True) as session:
        with monkeypatch.context() as patch:
            patch.setattr(Batch, "denoise", poisoned)
            with pytest.raises(EngineError, match="logit of step 1 is nan"):
                session.step(0)
        assert session.step(0, math.inf).tick == 0


def test_a_defect_leaves_nobody_waiting(
    tiny_package: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with load_world(tiny_package, threads=1) as world, world.session(0, batched=True) as session:

        def defect(*_: object) -> None:
            raise ZeroDivisionError("a defect")

        with monkeypatch.context() as patch:
            patch.setattr(Batch, "look_at", defect)
            with pytest.raises(EngineError, match="a defect"):
                session.step(0)
        assert "a round has failed" in caplog.text
        assert session.step(0, math.inf).tick == 0


def test_a_failure_after_the_frame_was_handed_over(tiny_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session can still be settled and closed."""
    session = tiny_world.session(0, batched=True)

    def learn(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Session, "_learn", learn)
        session.step(0, math.inf)
        session._seat.drain()  # type: ignore[union-attr]
    assert session.step(0, math.inf).tick == 1
    session.close()


def test_what_comes_between_the_rounds_counts(tiny_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tick that was granted a step does not get it when decoding another one's frame has taken its time."""
    real = Batch.decode
    slow = Event()

    def decode(batch: Batch, n: int) -> tuple[list[np.ndarray], int]:
        if not slow.is_set():
            slow.set()
            sleep(0.3)
        return real(batch, n)

    with (
        tiny_world.session(0, threshold=1.0, batched=True) as one,
        tiny_world.session(1, batched=True) as other,
        ThreadPoolExecutor(2) as pool,
    ):
        inside, opened = Event(), Event()
        denoise = Batch.denoise

        def held(batch: Batch, n: int) -> int:
            inside.set()
            assert opened.wait(WAIT_S)
            return denoise(batch, n)

        if one._seat._batcher is not other._seat._batcher:  # type: ignore[union-attr]
            other._seat = one._seat._batcher.seat()  # type: ignore[union-attr]
        monkeypatch.setattr(Batch, "decode", decode)
        monkeypatch.setattr(Batch, "denoise", held)
        first = pool.submit(one.step, 0, 10_000, steps=1)  # holds the batcher until both others are posted
        assert inside.wait(WAIT_S)
        opened.set()
        first.result(WAIT_S)
        slow.clear()
        inside.clear()
        opened.clear()
        posted = [pool.submit(other.step, 0, math.inf, steps=1)]
        assert inside.wait(WAIT_S)
        posted.append(pool.submit(one.step, 0, 250))
        opened.set()
        tick = posted[1].result(WAIT_S)
        posted[0].result(WAIT_S)
    assert tick.steps < 4
    assert tick.stopped_by in ("budget", "deadline")


def test_cancel_and_deadlines(
    tiny_world: World, alone: list[list[np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller returns while the round still runs; what was undone has never been."""
    inside, opened = Event(), Event()
    real = Batch.denoise

    def held(batch: Batch, n: int) -> int:
        inside.set()
        assert opened.wait(WAIT_S)
        return real(batch, n)

    with (
        tiny_world.session(**settings(1), batched=True) as session,  # type: ignore[arg-type]
        tiny_world.session(**settings(1), batched=True, on_miss="raise") as strict,  # type: ignore[arg-type]
        tiny_world.session(**settings(1), batched=True, on_miss="repeat") as patient,  # type: ignore[arg-type]
        ThreadPoolExecutor(1) as thread,
    ):
        with monkeypatch.context() as patch:
            patch.setattr(Batch, "denoise", held)
            step = thread.submit(session.step, ACTIONS[0], math.inf)
            assert inside.wait(WAIT_S)
            assert session.cancel()
            with pytest.raises(CancelledError):
                step.result(WAIT_S)
            with pytest.raises(DeadlineError):
                strict.step(ACTIONS[0], budget_ms=30)
            assert patient.step(3, budget_ms=30).status == "repeated"
            opened.set()
        for one in (session, strict):
            np.testing.assert_array_equal([one.step(a, math.inf).pixels for a in ACTIONS], alone[1])
        assert patient.step(ACTIONS[1], math.inf).tick == 1


def test_closing_the_world_first(tiny_package: Path) -> None:
    world = load_world(tiny_package, threads=1)
    session = world.session(0, batched=True)
    session.step(0)
    world.close()
    with pytest.raises(SessionError, match="was closed"):
        session.step(0)
    with pytest.raises(SessionError, match="was closed"):
        world.session(0, batched=True)
    session.close()


def test_a_soft_target_is_met(tiny_world: World) -> None:
    """The controller sees the ticks of a batch as it sees others."""
    with tiny_world.session(0, controller=Controller(target_steps=2.0, settle_ticks=8), batched=True) as session:
        steps = [session.step(tick % 4, math.inf).steps for tick in range(200)]
    assert abs(np.mean(steps[50:]) - 2.0) < 0.3


def test_costs_of_sizes_that_were_never_run() -> None:
    costs = BatchCosts()
    assert costs.quantile("denoise", 4, 0.5) is None
    for cost_ms in (2.0, 3.0, 4.0):
        costs.record("denoise", 2, cost_ms)
    assert costs.quantile("denoise", 2, 0.5) == 3.0
    assert costs.quantile("denoise", 4, 0.5) == 6.0
    assert costs.quantile("denoise", 1, 1.0) == 4.0
    costs.record("denoise", 4, 5.0)
    assert costs.quantile("denoise", 4, 0.5) == 5.0
    assert costs.quantile("denoise", 3, 0.5) == 4.5, "from the smaller of two equally near"


def test_what_lies_between_rounds() -> None:
    costs = BatchCosts()
    costs.begin()
    costs.end()
    costs.pause()
    costs.begin()
    assert costs.between(1.0) == 0.0, "nothing was to be done"
    costs.end()
    sleep(0.01)
    costs.begin()
    assert costs.between(1.0) >= 10.0
    before = costs.between(1.0)
    costs.begin()
    assert costs.between(1.0) == before


@pytest.mark.parametrize("form", ["op", "plain"])
def test_the_bundled_world_in_company(form: str) -> None:
    """Rounds of several sizes draw what sessions alone draw, and their confidence is that to 1e-5."""
    if form == "op":
        try:
            library.find()
        except library.LibraryMissing as problem:
            pytest.skip(str(problem))
    with load_world(threads=1, form=form) as world:
        sessions = [world.session(seed, batched=True) for seed in range(5)]
        barrier = Barrier(len(sessions))

        def play(session: Session) -> list[tuple[np.ndarray, float]]:
            seen = []
            for tick in range(3):
                barrier.wait(WAIT_S)
                made = session.step(tick, math.inf, steps=1 + (session.seed + tick) % 3)
                seen.append((made.pixels, made.confidence))
            return seen

        with ThreadPoolExecutor(len(sessions)) as pool:
            together = list(pool.map(play, sessions))
        for seed, frames in enumerate(together):
            sessions[seed].close()
            with world.session(seed) as alone:
                for tick, (pixels, confidence) in enumerate(frames):
                    expected = alone.step(tick, math.inf, steps=1 + (seed + tick) % 3)
                    np.testing.assert_array_equal(pixels, expected.pixels)
                    assert confidence == pytest.approx(expected.confidence, abs=1e-5)


def _failing(stage: str, real: object) -> object:
    def run(batch: Batch, graph: str, binding: object) -> int:
        if graph == stage:
            raise EngineError(f"{stage}: made to fail")
        return real(batch, graph, binding)  # type: ignore[operator, no-any-return]

    return run
