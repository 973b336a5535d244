"""How a session behaves, whichever way it is reached."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from dsa_runtime import (
    ActionError,
    BudgetError,
    CancelledError,
    Controller,
    DeadlineError,
    DsaError,
    EngineError,
    PromptError,
    SessionError,
    SnapshotError,
    Tick,
)
from tests.behaviour.door import AnySession, Door
from tests.play import ACTIONS, FEEDBACK
from tests.stages import WAIT_S, Gate, patch_stage

NO_LIMIT = math.inf
SHORT_MS = 120.0  # many times what a tick of the tiny world costs, also on a busy machine
ROUNDING_MS = 0.02  # of times that went over a wire as whole microseconds


def play(session: AnySession, actions: list[int] = ACTIONS, **options: Any) -> list[np.ndarray]:
    return [session.step(action, NO_LIMIT, **options).pixels for action in actions]


@pytest.fixture(scope="module")
def expected(doors: dict[str, Door]) -> list[np.ndarray]:
    """What a lone session in this process draws."""
    with doors["python"].session(7) as undisturbed:
        return play(undisturbed)


@pytest.fixture
def session(door: Door) -> Iterator[AnySession]:
    with door.session(7, history=8) as opened:
        yield opened


@pytest.fixture
def lone_session(lone_door: Door) -> Iterator[AnySession]:
    with lone_door.session(7, history=8) as opened:
        yield opened


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


def opened_soon(gate: Gate, after_s: float = 0.05) -> None:
    threading.Timer(after_s, gate.open.set).start()


class TestStep:
    def test_frames_are_those_of_a_lone_session_bit_for_bit(
        self, session: AnySession, expected: list[np.ndarray]
    ) -> None:
        np.testing.assert_array_equal(play(session), expected)
        assert session.tick == len(ACTIONS)

    def test_a_frame_is_a_picture_that_belongs_to_the_caller(self, session: AnySession) -> None:
        kept = session.step(0, NO_LIMIT).pixels
        copy = kept.copy()
        assert (kept.shape, kept.dtype) == ((8, 8, 3), np.uint8)
        assert kept.flags.writeable
        later = play(session)
        np.testing.assert_array_equal(kept, copy)
        assert not any(np.shares_memory(kept, pixels) for pixels in later)

    def test_seed_action_and_steps_reach_the_frame(self, door: Door) -> None:
        def first(seed: int, action: int, steps: int) -> bytes:
            with door.session(seed) as session:
                return bytes(session.step(action, NO_LIMIT, steps=steps).pixels.tobytes())

        variants = [(0, 0, 4), (1, 0, 4), (2, 0, 4), (0, 1, 4), (0, 0, 1), (0, 0, 2), (0, 0, 3)]
        assert len({first(*variant) for variant in variants}) == len(variants)

    @pytest.mark.parametrize(
        ("controller", "budget_ms", "steps", "stopped_by"),
        [
            (Controller(threshold=0.0), NO_LIMIT, 1, "confidence"),
            (Controller(threshold=0.0, min_steps=3), NO_LIMIT, 3, "confidence"),
            (Controller(threshold=1.0), NO_LIMIT, 4, "ceiling"),
            (Controller(policy="fixed", max_steps=3), NO_LIMIT, 3, "ceiling"),
            (Controller(threshold=1.0), 1e-3, 1, "budget"),
            (Controller(threshold=1.0, guard_ms=1e9), 1e6, 1, "budget"),
        ],
    )
    def test_what_ends_a_tick(
        self, door: Door, controller: Controller, budget_ms: float, steps: int, stopped_by: str
    ) -> None:
        with door.session(0, controller=controller) as session:
            tick = session.step(0, budget_ms)
        assert (tick.steps, tick.stopped_by) == (steps, stopped_by)

    def test_threshold_and_ceiling_override_the_controllers(self, door: Door) -> None:
        with door.session(0, controller=Controller(threshold=0.0, max_steps=1), threshold=1.0, max_steps=3) as session:
            assert session.controller == Controller(threshold=1.0, max_steps=3)
            tick = session.step(0, NO_LIMIT)
        assert (tick.steps, tick.stopped_by, tick.threshold) == (3, "ceiling", 1.0)

    def test_steps_that_are_asked_for_are_taken_whatever_the_budget(self, door: Door) -> None:
        with door.session(0, threshold=0.0) as session:
            tick = session.step(0, 1e-3, steps=4)
        assert (tick.steps, tick.stopped_by, tick.confidence, tick.status) == (4, "request", 1.0, "late")
        assert tick.slack_ms < 0

    def test_a_tick_accounts_for_its_time(self, session: AnySession) -> None:
        for number in range(10):
            tick = session.step(0, 500.0)
            latency = tick.latency_ms
            assert (tick.tick, tick.frame_tick, tick.budget_ms) == (number, number, 500.0)
            assert len(latency["denoise"]) == tick.steps
            assert min(latency["wait"], latency["decode"], latency["sdk"], *latency["denoise"]) >= 0
            parts = latency["wait"] + sum(latency["denoise"]) + latency["decode"] + latency["sdk"]
            assert parts == pytest.approx(latency["total"], abs=ROUNDING_MS)
            assert tick.slack_ms == pytest.approx(500.0 - latency["total"], abs=ROUNDING_MS)
            assert tick.status == ("late" if tick.slack_ms < 0 else "ok")
        assert session.tick == 10

    def test_without_a_budget_it_is_one_native_period_and_infinite_ones_leave_infinite_slack(
        self, door: Door, session: AnySession
    ) -> None:
        assert session.step(0).budget_ms == door.spec.frame.period_ms
        assert session.step(0, NO_LIMIT).slack_ms == math.inf

    def test_a_tick_is_frozen(self, session: AnySession) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            session.step(0, NO_LIMIT).steps = 3  # type: ignore[misc]

    def test_sessions_in_parallel_draw_what_each_draws_alone(self, door: Door, pool: ThreadPoolExecutor) -> None:
        def walk(seed: int) -> list[np.ndarray]:
            with door.session(seed) as session:
                return play(session)

        alone = [walk(seed) for seed in range(4)]
        np.testing.assert_array_equal(list(pool.map(walk, range(4))), alone)


class TestDeadline:
    def test_best_effort_waits_for_the_first_step(self, lone_door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
        with lone_door.session(7) as session, monkeypatch.context() as patch:
            gate = Gate(patch, "denoise")
            opened_soon(gate)
            tick = session.step(0, 20.0)
            assert session.on_miss == "best_effort"
        assert (tick.status, tick.steps, tick.frame_tick) == ("late", 1, 0)
        assert tick.slack_ms < 0

    def test_repeat_returns_the_frame_before_and_goes_on(
        self, lone_door: Door, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with lone_door.session(7, on_miss="repeat") as session:
            first = session.step(ACTIONS[0], NO_LIMIT)
            with monkeypatch.context() as patch:
                gate = Gate(patch, "denoise")
                repeated, skipped = session.step(1, SHORT_MS), session.step(2, SHORT_MS)
                gate.open.set()
                after = session.step(3, NO_LIMIT)
            assert session.tick == 3
        assert [tick.status for tick in (repeated, skipped, after)] == ["repeated", "skipped", "ok"]
        assert [tick.tick for tick in (repeated, skipped, after)] == [1, 2, 2]
        assert [tick.frame_tick for tick in (repeated, skipped, after)] == [0, 0, 2]
        assert (repeated.steps, repeated.confidence) == (0, 0.0)
        for tick in (repeated, skipped):
            np.testing.assert_array_equal(tick.pixels, first.pixels)
        # The tick that went on had its first step only; the one that was skipped has never been.
        with lone_door.session(7) as straight:
            straight.step(ACTIONS[0], NO_LIMIT, steps=first.steps)
            straight.step(1, NO_LIMIT, steps=1)
            np.testing.assert_array_equal(straight.step(3, NO_LIMIT, steps=after.steps).pixels, after.pixels)

    def test_raise_undoes_the_tick(
        self, lone_door: Door, expected: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with lone_door.session(7, on_miss="raise") as session:
            frames = play(session, ACTIONS[:3])
            with monkeypatch.context() as patch:
                Gate(patch, "denoise")
                with pytest.raises(DeadlineError, match="tick 3"):
                    session.step(3, SHORT_MS)
            assert session.tick == 3
            np.testing.assert_array_equal(frames + play(session, ACTIONS[3:]), expected)


def _raises(error: type[DsaError], match: str) -> Any:
    return pytest.raises(error, match=match)


class TestErrors:
    @pytest.mark.parametrize(
        ("call", "error", "match"),
        [
            (lambda s: s.step(4), ActionError, "0..3"),
            (lambda s: s.step(1.0), ActionError, "integer"),
            (lambda s: s.step(True), ActionError, "integer"),
            (lambda s: s.step([0]), ActionError, "integer"),
            (lambda s: s.step(0, 0.0), BudgetError, "budget_ms"),
            (lambda s: s.step(0, math.nan), BudgetError, "budget_ms"),
            (lambda s: s.step(0, "soon"), BudgetError, "budget_ms"),
            (lambda s: s.step(0, steps=0), BudgetError, "steps"),
            (lambda s: s.step(0, steps=5), BudgetError, "steps"),
            (lambda s: s.reset(-1), SessionError, "seed"),
            (lambda s: s.reset(2**64), SessionError, "seed"),
            (lambda s: s.rewind(9), SessionError, "undo 3 ticks"),
            (lambda s: s.rewind(-1), SessionError, "ticks"),
            (lambda s: s.fork(0), SessionError, "n:"),
            (lambda s: s.restore(b"nonsense"), SnapshotError, "something else"),
            (lambda s: s.restore(s.snapshot()[:-1]), SnapshotError, "damaged"),
            (lambda s: setattr(s, "controller", Controller(target_steps=40.0)), BudgetError, "target_steps"),
            (lambda s: s.set_prompt("a storm"), PromptError, "takes no text"),
        ],
    )
    def test_a_call_that_raises_leaves_the_session_as_it_was(
        self,
        session: AnySession,
        expected: list[np.ndarray],
        call: Callable[[AnySession], Any],
        error: type[DsaError],
        match: str,
    ) -> None:
        frames = play(session, ACTIONS[:3])
        with _raises(error, match):
            call(session)
        assert (session.tick, session.seed, session.controller) == (3, 7, Controller())
        np.testing.assert_array_equal(frames + play(session, ACTIONS[3:]), expected)

    @pytest.mark.parametrize("stage", ["denoise", "decode"])
    def test_a_tick_whose_graph_fails_has_never_been(
        self, lone_session: AnySession, expected: list[np.ndarray], monkeypatch: pytest.MonkeyPatch, stage: str
    ) -> None:
        frames = play(lone_session, ACTIONS[:3])

        def fail(*_: object) -> None:
            raise EngineError("broken")

        with monkeypatch.context() as patch:
            patch_stage(patch, stage, fail)
            with pytest.raises(EngineError):
                lone_session.step(3, NO_LIMIT)
        assert lone_session.tick == 3
        np.testing.assert_array_equal(frames + play(lone_session, ACTIONS[3:]), expected)

    @pytest.mark.parametrize(
        ("options", "error", "match"),
        [
            ({"seed": -1}, SessionError, "seed"),
            ({"threshold": 1.5}, BudgetError, "threshold"),
            ({"max_steps": 0}, BudgetError, "max_steps"),
            ({"on_miss": "panic"}, SessionError, "on_miss"),
            ({"history": -1}, SessionError, "history"),
            ({"controller": Controller(target_steps=40.0)}, BudgetError, "target_steps"),
            ({"prompt": "a storm"}, PromptError, "takes no text"),
        ],
    )
    def test_a_session_that_makes_no_sense_is_not_opened(
        self, door: Door, options: dict[str, Any], error: type[DsaError], match: str
    ) -> None:
        with _raises(error, match):
            door.session(**options)

    def test_a_closed_session_refuses_everything_and_may_be_closed_again(self, door: Door) -> None:
        session = door.session(7)
        taken = session.snapshot()
        session.close()
        session.close()
        for call in (
            lambda: session.step(0),
            lambda: session.reset(0),
            session.snapshot,
            lambda: session.restore(taken),
            lambda: session.rewind(0),
            session.fork,
            lambda: setattr(session, "controller", Controller()),
        ):
            with pytest.raises(SessionError, match="closed"):
                call()
        assert not session.cancel()

    def test_a_second_thread_is_refused(
        self, lone_session: AnySession, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            gate = Gate(patch, "denoise")
            step = pool.submit(lone_session.step, 0, NO_LIMIT)
            assert gate.inside.wait(WAIT_S)
            with pytest.raises(SessionError, match="another thread"):
                lone_session.step(0)
            gate.open.set()
            assert step.result(WAIT_S).tick == 0


class TestGoingBack:
    def test_reset_starts_over_and_shows_the_start(self, session: AnySession, expected: list[np.ndarray]) -> None:
        play(session, ACTIONS[:5])
        other = session.reset(0)
        assert (session.tick, session.seed) == (0, 0)
        play(session, [0])
        picture = session.reset(7)
        assert (picture.shape, picture.dtype) == ((8, 8, 3), np.uint8)
        assert (picture != other).any()
        picture[:] = 0
        assert session.reset(7).any()
        np.testing.assert_array_equal(play(session), expected)

    @pytest.mark.parametrize("at", [0, 1, 6])
    def test_restore_goes_on_from_a_snapshot(
        self, door: Door, session: AnySession, expected: list[np.ndarray], at: int
    ) -> None:
        play(session, ACTIONS[:at])
        taken = session.snapshot()
        play(session, [3, 0, 3])
        with door.session(1, threshold=0.1) as other:
            for place in (session, other):
                picture = place.restore(taken)
                assert (place.tick, place.seed, place.controller) == (at, 7, Controller())
                if at:
                    np.testing.assert_array_equal(picture, expected[at - 1])
                np.testing.assert_array_equal(play(place, ACTIONS[at:]), expected[at:])

    def test_snapshots_pass_through_any_door(
        self, door: Door, doors: dict[str, Door], session: AnySession, expected: list[np.ndarray]
    ) -> None:
        frames = play(session, ACTIONS[:4])
        for other in doors.values():
            with other.session(0) as elsewhere:
                elsewhere.restore(session.snapshot())
                assert elsewhere.snapshot() == session.snapshot()
                np.testing.assert_array_equal(frames + play(elsewhere, ACTIONS[4:]), expected)

    def test_the_controller_comes_with_a_snapshot(self, door: Door) -> None:
        with door.session(7, controller=FEEDBACK) as session, door.session(0) as other:
            play(session, ACTIONS[:7])
            other.restore(session.snapshot())
            assert other.controller == FEEDBACK
            for action in ACTIONS:
                one, two = session.step(action, NO_LIMIT), other.step(action, NO_LIMIT)
                np.testing.assert_array_equal(one.pixels, two.pixels)
                assert (one.steps, one.threshold) == (two.steps, two.threshold)

    @pytest.mark.parametrize("ticks", [0, 1, 5, 8])
    def test_rewind_undoes_ticks(self, session: AnySession, expected: list[np.ndarray], ticks: int) -> None:
        play(session)
        picture, at = session.rewind(ticks), len(ACTIONS) - ticks
        assert session.tick == at
        np.testing.assert_array_equal(picture, expected[at - 1])
        np.testing.assert_array_equal([*expected[:at], *play(session, ACTIONS[at:])], expected)

    def test_forks_go_on_from_here_each_on_its_own(
        self, session: AnySession, expected: list[np.ndarray], pool: ThreadPoolExecutor
    ) -> None:
        frames = play(session, ACTIONS[:4])
        branches = session.fork(3)
        other = play(branches[0], [3, 3, 3])
        for branch in branches:
            assert (branch.seed, branch.controller, branch.on_miss) == (7, Controller(), "best_effort")
            assert branch.tick == (7 if branch is branches[0] else 4)
        together = list(pool.map(lambda branch: play(branch, ACTIONS[4:]), [*branches[1:], session]))
        for rest in together:
            np.testing.assert_array_equal(frames + rest, expected)
        assert any((one != two).any() for one, two in zip(other, expected[4:], strict=False))
        with pytest.raises(SessionError, match="undo"):
            branches[0].rewind(4)
        for branch in branches:
            branch.close()

    def test_a_controller_may_be_replaced_between_ticks(self, session: AnySession) -> None:
        session.controller = Controller(policy="fixed", max_steps=2)
        assert session.controller == Controller(policy="fixed", max_steps=2)
        assert session.step(0, NO_LIMIT).steps == 2


def cancel_once_it_can(session: AnySession) -> None:
    give_up = time.monotonic() + WAIT_S
    while not session.cancel():
        assert time.monotonic() < give_up, "there never was a call to cancel"
        time.sleep(0.001)


class TestCancel:
    @pytest.mark.parametrize("budget_ms", [NO_LIMIT, WAIT_S * 1000], ids=["no budget", "a budget"])
    @pytest.mark.parametrize(("stage", "run"), [("denoise", 1), ("denoise", 3), ("decode", 1)])
    def test_a_cancelled_tick_has_never_been(
        self,
        lone_session: AnySession,
        expected: list[np.ndarray],
        pool: ThreadPoolExecutor,
        monkeypatch: pytest.MonkeyPatch,
        stage: str,
        run: int,
        budget_ms: float,
    ) -> None:
        frames = play(lone_session, ACTIONS[:3])
        with monkeypatch.context() as patch:
            gate = Gate(patch, stage, run)
            step = pool.submit(lone_session.step, 3, budget_ms, steps=4)
            assert gate.inside.wait(WAIT_S)
            cancel_once_it_can(lone_session)
            with pytest.raises(CancelledError):
                step.result(WAIT_S)  # while the gate is still closed
        assert lone_session.tick == 3
        np.testing.assert_array_equal(frames + play(lone_session, ACTIONS[3:]), expected)

    def test_without_a_step_there_is_nothing_to_cancel(self, session: AnySession, expected: list[np.ndarray]) -> None:
        assert not session.cancel()
        frames = play(session, ACTIONS[:3])
        assert not session.cancel()
        np.testing.assert_array_equal(frames + play(session, ACTIONS[3:]), expected)

    def test_close_waits_for_the_call_in_another_thread(
        self, lone_door: Door, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        session = lone_door.session(7)
        with monkeypatch.context() as patch:
            gate = Gate(patch, "denoise")
            step = pool.submit(session.step, 0, NO_LIMIT)
            assert gate.inside.wait(WAIT_S)
            closing = pool.submit(session.close)
            assert not step.done() and not closing.done()
            gate.open.set()
            tick: Tick = step.result(WAIT_S)
            closing.result(WAIT_S)
        assert tick.tick == 0
