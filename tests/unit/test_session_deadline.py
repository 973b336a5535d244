"""What happens when the deadline passes: in a later step, in the first one, under each `on_miss`."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import dsa_runtime.job
import dsa_runtime.reply
import dsa_runtime.sampler
import dsa_runtime.session
from dsa_runtime import BudgetError, Controller, DeadlineError, EngineError, Session, SessionError, World, load_world
from dsa_runtime.latency import Costs
from dsa_runtime.replay import verify_replay
from dsa_runtime.workspace import Workspace
from tests.stages import Gate, patch_stage, settle

ACTIONS = [0, 1, 3, 2, 2, 0]
ALL_STEPS = Controller(policy="fixed")  # wants every step; only time stops it
BUDGET_MS = 120.0  # many times what a tick of the tiny world costs, also on a busy machine


def frames(world: World, steps: list[int], actions: list[int] = ACTIONS) -> list[np.ndarray]:
    """What an undisturbed session draws with these numbers of steps."""
    with world.session(7) as session:
        return [session.step(action, math.inf, steps=k).pixels for action, k in zip(actions, steps, strict=False)]


@pytest.fixture(params=["best_effort", "repeat", "raise"])
def on_miss(request: pytest.FixtureRequest) -> Any:
    return request.param


class TestLaterSteps:
    """A step past the first costs no deadline: it is abandoned, whatever `on_miss` says."""

    def test_the_frame_of_the_step_before_is_returned(
        self, tiny_world: World, monkeypatch: pytest.MonkeyPatch, on_miss: Any
    ) -> None:
        expected = frames(tiny_world, [3, 4])
        with tiny_world.session(7, controller=ALL_STEPS, on_miss=on_miss) as session:
            # Time to react on a busy machine: the deadline is seen to so much before it comes.
            session._costs = Costs(session._costs.denoise_ms, decode_ms=2 * BUDGET_MS)
            with monkeypatch.context() as patch:
                gate = Gate(patch, "denoise", first=4)
                tick = session.step(ACTIONS[0], 4 * BUDGET_MS)
                assert gate.inside.is_set()
            assert (tick.status, tick.steps, tick.stopped_by) == ("ok", 3, "deadline")
            assert tick.latency_ms["abandoned"] > 0
            assert len(tick.latency_ms["denoise"]) == 3
            assert tick.confidence == tiny_world.spec.calibration.confidence(3, _logit(session))
            parts = tick.latency_ms
            inside = parts["wait"] + sum(parts["denoise"]) + parts["abandoned"] + parts["decode"]
            assert inside + parts["sdk"] == pytest.approx(parts["total"])
            assert parts["sdk"] >= 0
            after = session.step(ACTIONS[1], math.inf)
        np.testing.assert_array_equal([tick.pixels, after.pixels], expected)

    def test_an_abandoned_step_counts_as_a_cost(self, tiny_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """Or only the fast runs of a step would ever be seen."""
        with tiny_world.session(7, controller=ALL_STEPS) as session:
            session.latency.prime({"denoise 2": [10.0] * 100})  # or a step of 50 ms would be taken for a pause
            with monkeypatch.context() as patch:
                Gate(patch, "denoise", first=2)
                tick = session.step(0, BUDGET_MS)
            settle(session)
            assert tick.latency_ms["abandoned"] > 10.0
            assert session.latency.quantile("denoise", 1.0, 2) == tick.latency_ms["abandoned"]

    def test_without_rescue_the_step_is_waited_for(self, tiny_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        controller = Controller(policy="fixed", rescue=False)
        with tiny_world.session(7, controller=controller) as session, monkeypatch.context() as patch:
            gate = Gate(patch, "denoise", first=4)
            threading.Timer(2 * BUDGET_MS / 1e3, gate.open.set).start()
            tick = session.step(0, BUDGET_MS)
        assert (tick.status, tick.steps, tick.latency_ms["abandoned"]) == ("late", 4, 0.0)

    def test_steps_asked_for_are_never_abandoned(
        self, tiny_world: World, monkeypatch: pytest.MonkeyPatch, on_miss: Any
    ) -> None:
        with tiny_world.session(7, on_miss=on_miss) as session, monkeypatch.context() as patch:
            gate = Gate(patch, "denoise", first=2)
            threading.Timer(2 * BUDGET_MS / 1e3, gate.open.set).start()
            tick = session.step(0, BUDGET_MS, steps=4)
        assert (tick.status, tick.steps, tick.stopped_by) == ("late", 4, "request")

    def test_onnx_runtime_itself_is_interrupted(self) -> None:
        """The bundled world: its first step is one millisecond longer than allowed, measured on the spot."""
        with load_world(threads=1) as world:
            steps = world.spec.schedule.steps
            with world.session(1, controller=Controller(policy="fixed", guard_ms=0.0)) as session:
                decode_ms = session.latency.quantile("decode", 0.5) or 0.0
                step_ms = session.latency.quantile("denoise", 0.5) or 0.0
                cut = []
                for share in (1.3, 1.5, 1.7) * 5:
                    settle(session)
                    session._costs = Costs((0.0,) * steps, decode_ms)  # every step is admitted
                    tick = session.step(0, decode_ms + share * step_ms)
                    if tick.latency_ms["abandoned"]:
                        cut.append(tick)
                assert cut
                for tick in cut:
                    assert 1 <= tick.steps < steps
                    assert tick.stopped_by == "deadline"
                # Of the best of them: the machine may pause in any.
                assert min(tick.latency_ms["abandoned"] for tick in cut) < step_ms * 20
            self._replays(world, cut[0].steps)

    def _replays(self, world: World, steps: int) -> None:
        """A rescued frame is the frame of that many steps, so it can be asked for again."""
        session = world.session(1, controller=Controller(policy="fixed"), record=True)
        with session:
            for budget_ms in np.linspace(1, 30, 15):
                settle(session)
                session._costs = Costs((0.0,) * world.spec.schedule.steps, 0.0)
                session.step(1, float(budget_ms))
            assert session.recording is not None
            assert verify_replay(world, session.recording) == 15


class TestBestEffort:
    def test_the_first_step_is_waited_for_and_the_tick_is_late(
        self, tiny_world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = frames(tiny_world, [1, 4])
        with tiny_world.session(7, controller=ALL_STEPS) as session:
            with monkeypatch.context() as patch:
                gate = Gate(patch, "denoise")
                threading.Timer(2 * BUDGET_MS / 1e3, gate.open.set).start()
                tick = session.step(ACTIONS[0], BUDGET_MS)
            assert (tick.status, tick.steps, tick.stopped_by, tick.frame_tick) == ("late", 1, "budget", 0)
            assert tick.slack_ms < 0
            after = session.step(ACTIONS[1], math.inf)
        np.testing.assert_array_equal([tick.pixels, after.pixels], expected)

    def test_a_held_commit_takes_from_the_next_ticks_budget(
        self, tiny_world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with tiny_world.session(7, controller=ALL_STEPS) as session, monkeypatch.context() as patch:
            gate = Gate(patch, "commit")
            session.step(0, math.inf)
            threading.Timer(2 * BUDGET_MS / 1e3, gate.open.set).start()
            tick = session.step(1, BUDGET_MS)
        assert (tick.status, tick.steps, tick.stopped_by) == ("late", 1, "budget")
        assert tick.latency_ms["wait"] > BUDGET_MS


class TestRepeat:
    @pytest.fixture
    def session(self, tiny_world: World) -> Iterator[Session]:
        with tiny_world.session(7, controller=ALL_STEPS, on_miss="repeat", record=True) as session:
            yield session

    def test_a_late_tick_is_the_next_ones_past(
        self, tiny_world: World, session: Session, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = session.step(ACTIONS[0], math.inf)
        with monkeypatch.context() as patch:
            gate = Gate(patch, "denoise")
            repeated = session.step(ACTIONS[1], BUDGET_MS)
            assert (repeated.status, repeated.tick, repeated.frame_tick, repeated.steps) == ("repeated", 1, 0, 0)
            np.testing.assert_array_equal(repeated.pixels, first.pixels)
            assert session.tick == 1
            gate.open.set()
            after = session.step(ACTIONS[2], math.inf)
        assert (after.status, after.tick, after.frame_tick) == ("ok", 2, 2)
        # The late tick was told to hurry, so it took one step; that is what the past then holds.
        expected = frames(tiny_world, [4, 1, 4])
        np.testing.assert_array_equal([first.pixels, after.pixels], [expected[0], expected[2]])
        assert session.recording is not None
        assert [decision.steps for decision in session.recording.decisions] == [4, 1, 4]
        assert verify_replay(tiny_world, session.recording) == 3

    def test_an_action_that_finds_the_worker_busy_is_skipped(
        self, tiny_world: World, session: Session, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            gate = Gate(patch, "denoise")
            statuses = [session.step(action, BUDGET_MS) for action in (ACTIONS[0], 3, 3)]
            assert [tick.status for tick in statuses] == ["repeated", "skipped", "skipped"]
            assert [tick.tick for tick in statuses] == [0, 1, 1]
            assert {tick.frame_tick for tick in statuses} == {-1}
            gate.open.set()
            after = session.step(ACTIONS[1], math.inf)
        assert after.tick == 1
        np.testing.assert_array_equal(after.pixels, frames(tiny_world, [1, 4])[1])

    def test_steps_are_exact_behind_a_late_tick(self, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever the budget says: a replay would otherwise skip what was played."""
        with monkeypatch.context() as patch:
            gate = Gate(patch, "denoise")
            assert session.step(0, BUDGET_MS).status == "repeated"
            threading.Timer(2 * BUDGET_MS / 1e3, gate.open.set).start()
            tick = session.step(1, BUDGET_MS, steps=2)
        assert (tick.tick, tick.status, tick.steps) == (1, "late", 2)

    def test_before_the_first_frame_the_start_picture_is_repeated(
        self, session: Session, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        picture = session.reset(1)
        with monkeypatch.context() as patch:
            gate = Gate(patch, "denoise")
            np.testing.assert_array_equal(session.step(0, BUDGET_MS).pixels, picture)
            gate.open.set()
        settle(session)
        assert session.tick == 1

    def test_what_the_caller_does_to_its_pixels_is_not_repeated(
        self, session: Session, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = session.step(0, math.inf)
        kept = first.pixels.copy()
        first.pixels[:] = 0
        with monkeypatch.context() as patch:
            gate = Gate(patch, "denoise")
            repeated = session.step(0, BUDGET_MS)
            np.testing.assert_array_equal(repeated.pixels, kept)
            repeated.pixels[:] = 0
            np.testing.assert_array_equal(session.step(0, BUDGET_MS).pixels, kept)
            gate.open.set()

    def test_a_repeated_tick_that_fails_is_reported_once_and_undone(
        self, tiny_world: World, session: Session, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        frame = session.step(ACTIONS[0], math.inf, steps=4)
        with monkeypatch.context() as patch:
            gate = Gate(patch, "denoise")
            patch_stage(patch, "decode", _broken)
            assert session.step(ACTIONS[3], BUDGET_MS).status == "repeated"
            gate.open.set()
            with pytest.raises(
                EngineError, match=r"tick 1, answered with 'repeated' before, has failed: decode: broken"
            ):
                session.step(ACTIONS[3], math.inf)
        assert session.tick == 1
        after = session.step(ACTIONS[1], math.inf)
        np.testing.assert_array_equal([frame.pixels, after.pixels], frames(tiny_world, [4, 4]))

    def test_snapshot_and_fork_wait_for_a_late_tick(self, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch:
            gate = Gate(patch, "denoise")
            session.step(0, BUDGET_MS)
            threading.Timer(0.05, gate.open.set).start()
            (branch,) = session.fork()
        assert (session.tick, branch.tick) == (1, 1)
        branch.close()


class TestRaise:
    def test_the_tick_is_undone(self, tiny_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        expected = frames(tiny_world, [4, 4, 4])
        with tiny_world.session(7, controller=ALL_STEPS, on_miss="raise", record=True) as session:
            drawn = [session.step(ACTIONS[0], math.inf)]
            settle(session)
            used = session._runtime.cache.used
            with monkeypatch.context() as patch:
                Gate(patch, "denoise")
                for _ in range(3):
                    with pytest.raises(DeadlineError, match=r"tick 1: not ready within budget_ms = 120"):
                        session.step(3, BUDGET_MS)
            assert session.tick == 1
            settle(session)
            assert session._runtime.cache.used == used
            drawn += [session.step(action, math.inf) for action in ACTIONS[1:3]]
            assert session.recording is not None
            assert verify_replay(tiny_world, session.recording) == 3
        np.testing.assert_array_equal([tick.pixels for tick in drawn], expected)

    def test_decode_is_abandoned_too(self, tiny_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        expected = frames(tiny_world, [4])
        with tiny_world.session(7, controller=ALL_STEPS, on_miss="raise") as session:
            with monkeypatch.context() as patch:
                Gate(patch, "decode")
                with pytest.raises(DeadlineError):
                    session.step(ACTIONS[0], BUDGET_MS)
            np.testing.assert_array_equal([session.step(ACTIONS[0], math.inf).pixels], expected)

    def test_a_deadline_error_is_a_timeout(self) -> None:
        assert issubclass(DeadlineError, TimeoutError)


class TestClock:
    def test_a_pause_of_a_minute_is_late_and_then_forgotten(
        self, tiny_world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A virtual machine that stood still, a debugger, a laptop that slept: the clock leaps inside a step."""
        leap_ns = 0
        real = time.perf_counter_ns

        def clock() -> int:
            return real() + leap_ns

        def sleep_a_minute(_: Workspace, count: int) -> None:
            nonlocal leap_ns
            leap_ns += 60_000_000_000 if count == 2 else 0

        for module in (dsa_runtime.job, dsa_runtime.reply, dsa_runtime.session, dsa_runtime.sampler):
            monkeypatch.setattr(module, "perf_counter_ns", clock)
        monkeypatch.setattr("dsa_runtime.bindings.time.perf_counter_ns", clock)
        with tiny_world.session(7, controller=ALL_STEPS) as session:
            for _ in range(5):
                session.step(0, 5000.0)
            with monkeypatch.context() as patch:
                patch_stage(patch, "denoise", sleep_a_minute)
                stopped = session.step(0, 5000.0)
            after = session.step(0, 5000.0)
            settle(session)
            assert (stopped.status, stopped.steps) == ("late", 2)
            assert (after.status, after.steps) == ("ok", 4)
            assert all(cost.p99_ms < 5000 for cost in session.latency.summary().values())

    def test_an_interrupted_wait_undoes_the_tick(self, tiny_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ctrl-C while the caller waits."""
        expected = frames(tiny_world, [4, 4])

        def interrupted(*_: Any) -> bool:
            raise KeyboardInterrupt

        with tiny_world.session(7, controller=ALL_STEPS) as session:
            drawn = [session.step(ACTIONS[0], math.inf)]
            with monkeypatch.context() as patch:
                Gate(patch, "denoise")
                patch.setattr(dsa_runtime.job.Job, "wait", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    session.step(3, math.inf)
            assert session.tick == 1
            drawn.append(session.step(ACTIONS[1], math.inf))
        np.testing.assert_array_equal([tick.pixels for tick in drawn], expected)


def test_an_unknown_miss_policy_is_refused(tiny_world: World) -> None:
    with pytest.raises(SessionError, match=r"on_miss: expected one of best_effort, repeat, raise, got 'wait'"):
        tiny_world.session(0, on_miss="wait")  # type: ignore[arg-type]


def test_credit_extends_the_deadline(tiny_world: World) -> None:
    """Ticks that used little of their budget pay for one that needs more."""
    with tiny_world.session(7, controller=Controller(policy="fixed", credit_ms=1e6)) as session:
        first = session.step(0, 5000.0)
        second = session.step(0, 1e-3)
        assert first.credit_ms == 0.0
        assert second.credit_ms == pytest.approx(first.slack_ms, abs=1000.0)
        assert (second.steps, second.status) == (4, "ok")
        assert second.slack_ms == pytest.approx(1e-3 + second.credit_ms - second.latency_ms["total"])


def test_the_controller_may_be_replaced_between_ticks(tiny_world: World) -> None:
    with tiny_world.session(7, threshold=0.0) as session:
        assert session.step(0, math.inf).steps == 1
        session.controller = Controller(policy="fixed", max_steps=3)
        assert session.step(0, math.inf).steps == 3
        with pytest.raises(BudgetError, match=r"target_steps"):
            session.controller = Controller(target_steps=99.0)
        assert session.step(0, math.inf).steps == 3


def _broken(_: Workspace, count: int) -> None:
    raise EngineError("decode: broken")


def _logit(session: Session) -> float:
    """Of the last finished step, from the buffers of the runner that made it."""
    settle(session)
    runner = session._worker._previous
    assert runner is not None
    return float(runner.workspace.logits[2])
