"""Session: one running world. `step` turns an action into a frame within a budget."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from time import perf_counter_ns, sleep
from types import TracebackType
from typing import Any

import numpy as np

from . import reply, watchdog
from . import snapshot as snapshots
from .arguments import check_budget, check_count, check_seed, check_steps
from .batcher import Seat
from .bindings import Interrupted
from .collection import COLLECTION_PAUSE
from .controller import Controller, Outcome, Plan
from .errors import CancelledError, EngineError, SessionError
from .frame_cache import Window
from .job import MS_PER_NS, Job, Line, Sample
from .latency import Costs, LatencyModel
from .recording import Decision, Played, PromptChange, Recording, digest
from .runner import Lease, Runner
from .runtime import Runtime
from .sampler import score
from .state import SessionState
from .tick import Tick
from .watchdog import OnMiss

_YIELD_S = 2e-4  # so long that a caller in C is out of its call; else it wakes the worker by giving up the GIL


class Session:
    """One running instance of a world: a window into the frame cache, a seed and a tick counter.

    Made by `World.session` and by `fork`. A tick returns its frame before the frame is committed to the cache;
    the commit runs on a worker thread meanwhile, and the next call waits for it. A call that raises leaves the
    session as it was.

    Sessions of one world may run on different threads at the same time; one session serves one thread at a
    time and refuses a second one, except for `cancel`. Close it, or use it in a `with` statement; a session
    that is merely dropped gives its slots back when it is collected.
    """

    def __init__(
        self,
        runtime: Runtime,
        window: Window,
        state: SessionState,
        controller: Controller,
        latency: LatencyModel,
        on_miss: OnMiss,
        history: int,
        shown: np.ndarray,
        seat: Seat | None = None,
    ) -> None:
        """For `World.session` and `fork`: cheap, and takes over the window. With a `seat` its ticks are batched."""
        self.spec = runtime.spec
        self.latency = latency
        """Measured cost of the stages, shared with this session's forks."""
        self._on_miss: OnMiss = on_miss
        self._recording: Recording | None = None
        self._runtime, self._window, self._state = runtime, window, state
        self._controller = controller
        self._plan = self._planned(controller, state)  # for the next tick
        self._past: deque[SessionState] = deque(maxlen=history)  # what `rewind` can go back to
        self._uncommitted = False  # the newest frame is not in the window yet
        # (next tick, picture before it): what `repeat` repeats, and only kept up to date for that.
        self._newest = (state.tick, shown)
        self._costs = self._expected(controller)
        self._entered = threading.Lock()
        self._cancelling = threading.Lock()
        self._closed = self._cancelled = False
        self._waiting: Job | None = None  # what a call is waiting for
        self._late: Job | None = None  # a tick that went on after its call had returned
        self._line = Line()
        self._worker = Lease(runtime.runners)
        self._seat = seat

    @property
    def batched(self) -> bool:
        """Whether its ticks are made together with other sessions'; see `World.session`."""
        return self._seat is not None

    @property
    def tick(self) -> int:
        """Ticks finished since the last reset; the index of the next one."""
        return self._state.tick

    @property
    def seed(self) -> int:
        """The seed of the last reset."""
        return self._state.seed

    @property
    def controller(self) -> Controller:
        """How steps are allocated. May be replaced between two ticks."""
        return self._controller

    @controller.setter
    def controller(self, controller: Controller) -> None:
        with self._settled():
            self._plan = self._planned(controller, self._state)
            self._controller = controller
            self._costs = self._expected(controller)

    @property
    def recording(self) -> Recording | None:
        """What was decided since the last reset or restore, if the session was opened with `record=True`."""
        return self._recording

    @property
    def on_miss(self) -> OnMiss:
        """What a tick does that cannot keep its budget; see `World.session`."""
        return self._on_miss

    @property
    def prompt(self) -> str | np.ndarray | None:
        """The text it is conditioned on: the name of one of the world's prompts, or embeddings `float32[tokens, width]`
        (a copy); None in worlds that take no text.
        """
        prompt = self._state.prompt
        return None if prompt is None else prompt.name or prompt.text.copy()

    def set_prompt(self, prompt: str | np.ndarray) -> None:
        """Condition the coming ticks on another text.

        prompt   the name of one of the world's prompts (`session.spec.text.prompts`), or embeddings
                 `float32[n, width]`, n at most `spec.text.tokens`, made elsewhere

        What the world remembers depends on the text it was made with, so the window's ticks are committed again: this
        takes as long as `spec.cache.window` commits. The history of `rewind` starts anew. Raises `PromptError`, and is
        then as if it had not been called.
        """
        found = self._runtime.prompt(prompt)
        with self._settled():
            runtime, slots = self._runtime, self._window.slots
            latents, actions = runtime.cache.read_sources(slots)
            window = self._worker.call(
                lambda runner: runtime.window_on(runner, latents, actions, self._past.maxlen or 0, found, self.latency)
            )
            self._window.close()
            self._window, self._state = window, dataclasses.replace(self._state, prompt=found)
            self._past.clear()
            self._record_prompt()

    def step(self, action: Any, budget_ms: float | None = None, *, steps: int | None = None) -> Tick:
        """Advance the world by one tick and return its frame.

        action      as the world's action space says (`session.spec.action_space`)
        budget_ms   wall time from call to return; None for one period of the world's native rate, `math.inf`
                    for none. The first denoising step always runs; a further one only if it is expected to
                    fit, and it is abandoned if it turns out that it does not. What happens when even the first
                    is not ready in time is the session's `on_miss`
        steps       exactly this many denoising steps, whatever the confidence, the budget and `on_miss`: for
                    replay and comparison

        Raises `ActionError`, `BudgetError`, `SessionError`, `EngineError`, `CancelledError` or, if the session
        was opened so, `DeadlineError`; and is then as if it had not been called.
        """
        started_ns = perf_counter_ns()
        self._enter()
        try:
            with COLLECTION_PAUSE:
                return self._step(action, budget_ms, steps, started_ns)
        finally:
            self._waiting = None
            self._entered.release()

    def cancel(self) -> bool:
        """From any thread: let the `step` that another thread is in raise `CancelledError` at once.

        False if there is none, or if its frame is finished already: then it returns that.
        """
        with self._cancelling:
            job = self._waiting
            if job is None:
                return False
            if job is not self._late:
                return job.cancel()
            # That tick's call has returned, so it is not undone. The call that waits for it is stopped.
            self._cancelled = True
            job.ring()
            return True

    def reset(self, seed: int) -> np.ndarray:
        """Start over from context `seed % world.contexts`; returns its last picture, `uint8[H, W, 3]`, black where a
        world begins with nothing. A prompt stays.

        `seed` (0 <= seed < 2**64) also keys the noise, so that with a sequence of actions and steps it fixes
        every frame.
        """
        seed = check_seed(seed)
        runtime, history = self._runtime, self._past.maxlen or 0
        with self._settled(commit=False):
            prompt = self._state.prompt
            parts = self._worker.call(lambda runner: runtime.context(runner, self.latency, seed, history, prompt))
            picture = self._replace(*parts, self._controller)
            if self._recording is not None:
                self._record(Recording.of(self.spec, self._recording.form, seed))
            return picture

    def snapshot(self) -> bytes:
        """Everything that decides the session's future, for `restore` here, later or elsewhere.

        Portable between processes and machines, versioned, bound to the world's files and protected by a
        digest. On the same machine the restored session draws the same frames, bit for bit. Its size is that
        of the window's keys and values, plus little.
        """
        with self._settled():
            return snapshots.encode(self.spec, self._runtime.taken(self._window, self._state, self._controller))

    def restore(self, snapshot: bytes) -> np.ndarray:
        """Go on from a snapshot of the same world; returns its newest picture, `uint8[H, W, 3]`.

        The controller comes with it, and the history of `rewind` starts anew. Raises `SnapshotError` if it is
        damaged, of another world or of another version.
        """
        found = snapshots.decode(self.spec, snapshot)
        with self._settled(commit=False):
            runtime, history = self._runtime, self._past.maxlen or 0
            parts = self._worker.call(lambda runner: runtime.restored(runner, found, history))
            picture = self._replace(*parts, found.controller)
            if self._recording is not None:
                self._recording = Recording.of(self.spec, self._recording.form, self.seed, self.tick, bytes(snapshot))
            return picture

    def rewind(self, ticks: int) -> np.ndarray:
        """Undo the last `ticks` ticks; returns the picture the session is back at, `uint8[H, W, 3]`.

        At tick 0 that is the start context's picture as the world draws it, not the recorded one of `reset`. Raises
        `SessionError` for more ticks than the session keeps (`history` of `World.session`) or has made since it was
        reset, restored or forked.
        """
        with self._settled():
            limit = f"opened with history={self._past.maxlen}, the session can undo {len(self._past)} ticks now"
            ticks = check_count("ticks", ticks, 0, len(self._past), limit)
            state = self._past[-ticks] if ticks else self._state
            shown: np.ndarray = self._worker.call(lambda runner: runner.sampler.picture(state))
            self._window.rewind(ticks)
            self._state, self._newest = state, (state.tick, shown)
            self._plan = self._planned(self._controller, self._state)
            for _ in range(ticks):
                self._past.pop()
                if self._recording is not None:
                    self._recording.decisions.pop()
            picture: np.ndarray = shown.copy()
            return picture

    def fork(self, n: int = 1) -> list[Session]:
        """`n` sessions that go on from here, each on its own. Copies no keys and values and starts no threads.

        They have this session's seed and settings and an empty history: given the same actions and steps they
        draw the same frames. Close them.
        """
        n = check_count("n", n, 1, 1 << 16)
        with self._settled():
            runtime, history, shown = self._runtime, self._past.maxlen or 0, self._newest[1]
            branches = [
                Session(
                    runtime, window, self._state, self._controller, self.latency, self._on_miss, history, shown,
                    runtime.seat(start=False) if self.batched else None,
                )
                for window in runtime.cache.fork(self._window, n, history)
            ]  # fmt: skip
            if self._recording is not None:
                for branch in branches:
                    branch._recording = self._recording.fork()
            return branches

    def close(self) -> None:
        """Give the slots back. Idempotent. Waits for a call in another thread to return."""
        with self._entered:
            if not self._closed:
                self._closed = True
                self._drain()
                self._window.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # A tick, on the caller's side.

    def _step(self, action: Any, budget_ms: float | None, steps: int | None, started_ns: int) -> Tick:
        spec = self.spec
        encoded = spec.action_space.encode(action)
        steps = None if steps is None else check_steps(steps, spec.schedule.steps)
        budget_ms = spec.frame.period_ms if budget_ms is None else check_budget(budget_ms)
        if self._late is not None:
            tick, newest = self._state.tick + 1, self._newest
            if not self._await_late(started_ns, budget_ms if steps is None else math.inf):
                return reply.stale("skipped", tick, newest, spec.frame.frames_per_tick, started_ns, budget_ms, 0.0)
        # A copy, as the caller may use its array again.
        asked = spec.action_space.validate(action) if self._recording is not None else None
        job = self._waiting = Job(encoded, asked, steps, budget_ms, self._plan.credit_ms, started_ns, self._line)
        tick = self._state.tick
        if self._seat is None:
            self._worker.post(partial(self._run, job))
        else:
            self._seat.post(job, self)
        try:
            watchdog.watch(job, tick, self._controller, self._costs, self._on_miss)
        except BaseException:
            job.abandon()
            raise
        newest = self._newest  # before the question below, so that a tick that ends just now is not half seen
        if job.leave():
            with self._cancelling:
                self._waiting, self._late = None, job
            pictures = spec.frame.frames_per_tick
            return reply.stale("repeated", tick, newest, pictures, started_ns, budget_ms, job.credit_ms)
        if job.cancelled:
            raise CancelledError(f"tick {tick} was cancelled")
        if job.error is not None:
            raise job.error
        assert job.sample is not None
        made = reply.finished(job, job.sample)
        if self._recording is not None:
            self._recording.measured(made)
        return made

    def _await_late(self, started_ns: int, budget_ms: float) -> bool:
        """Wait for the tick that is still being drawn. False if it takes longer than this call has time."""
        job = self._late
        assert job is not None
        self._cancelled = False
        self._waiting = job
        job.wait(watchdog.leave_ns(started_ns, budget_ms, self._controller), lambda: self._cancelled)
        with self._cancelling:
            self._waiting = None
            if self._cancelled:
                raise CancelledError("the call was cancelled while it waited for the tick before")
        if not job.finished:
            return False
        self._late = None
        self._check_late(job)
        return True

    # A tick, on the worker's side. `_take_over` and `_learn` are the batcher's as well, which is the worker of batched
    # sessions, and reads `_state`, `_window`, `_plan` and `_controller` where `_run` does.

    def _run(self, job: Job, runner: Runner) -> None:
        """Make a tick, let its caller go, and do what can wait until then."""
        if not job.start(runner.workspace):
            return
        try:
            self._commit(runner)  # only if the one after the previous tick has failed
            plan = job.plan = self._plan
            sample = runner.sampler.run(
                job, plan, self._window, self._state, self._controller, self._costs, self._worker.free_ns
            )
            recorded = digest(sample.frames) if self._recording is not None else ""
            if not job.finish(sample, lambda: self._take_over(job, sample, recorded)):
                return
        except Interrupted:
            return
        except Exception as error:
            job.fail(error)
            return
        finally:
            runner.workspace.resume()
        # The caller shall go its way first. It was woken, but a thread that has slept long need not be put before
        # one that computes: without this pause it was seen to wait for the whole commit.
        sleep(_YIELD_S)
        with suppress(Exception):  # the next tick tries again, and reports it
            self._commit(runner)
        self._learn(job, sample)
        runner.sampler.prepare(self._window, self._state)

    def _take_over(self, job: Job, sample: Sample, recorded: str) -> None:
        """The tick is made: change the session. Everything that can fail has been done."""
        assert job.plan is not None
        state = self._state
        self._past.append(state)
        shown = sample.frames[-1].copy() if self.spec.keeps_picture else None  # the caller may write to its own
        self._state = SessionState(
            state.seed, state.tick + 1, state.controller, job.action, sample.latent, sample.stream, shown, state.prompt
        )
        self._uncommitted = True
        if job.credit_ms or self._controller.credit_ms:
            self._observe(job, sample)  # at once: the next call begins with its credit
        if self._on_miss == "repeat":
            self._newest = (state.tick + 1, sample.frames[-1].copy())
        if self._recording is not None:
            # How a tick fared is known when its call returns, or, where that did not wait for it, now.
            played = Played.of(reply.left(job, sample)) if job.left else None
            decision = Decision(job.asked, len(sample.denoise_ms), job.plan.threshold, recorded, played)
            self._recording.decisions.append(decision)

    def _commit(self, runner: Runner) -> None:
        """Put the newest frame into the window, if it is not there yet."""
        if self._uncommitted:
            state = self._state
            cost_ns = runner.workspace.commit(self._window, state.latent, state.action, state.prompt)
            self._uncommitted = False
            self.latency.record("commit", cost_ns * MS_PER_NS)

    def _learn(self, job: Job, sample: Sample) -> None:
        """Enter the costs. An abandoned step's counts too, or only the fast ones would ever be seen."""
        costs = sample.denoise_ms + ((sample.abandoned_ms,) if sample.abandoned_ms else ())
        for step, cost_ms in enumerate(costs, 1):
            self.latency.record("denoise", cost_ms, step)
        self.latency.record("decode", sample.decode_ms)
        self._costs = self._expected(self._controller)
        if not job.observed:
            self._observe(job, sample)

    def _observe(self, job: Job, sample: Sample) -> None:
        """Let the controller see the tick, and plan the next."""
        assert job.plan is not None
        steps = len(sample.denoise_ms)
        outcome = Outcome(
            score=score(sample.logit),
            steps=steps,
            stopped_by=sample.stopped_by,
            total_ms=job.total_ms,
            budget_ms=job.budget_ms,
            step_ms=sum(sample.denoise_ms) / steps,
        )
        job.observed = True
        self._state = dataclasses.replace(self._state, controller=self._controller.observe(job.plan, outcome))
        self._plan = self._planned(self._controller, self._state)

    def _expected(self, controller: Controller) -> Costs:
        return self.latency.costs(*controller.step_and_decode_quantiles, self.spec.schedule.steps)

    def _planned(self, controller: Controller, state: SessionState) -> Plan:
        return controller.plan(state.controller, self.spec.calibration, self.spec.schedule.steps)

    # Between ticks.

    def _record(self, recording: Recording) -> None:
        """Record from here on, from a reset."""
        self._recording = recording
        self._record_prompt()

    def _record_prompt(self) -> None:
        prompt = self.prompt
        if self._recording is not None and prompt is not None:
            self._recording.prompts.append(PromptChange(self.tick, prompt))

    def _enter(self) -> None:
        if not self._entered.acquire(blocking=False):
            raise SessionError("the session is in use by another thread")
        if self._closed:
            self._entered.release()
            raise SessionError("the session is closed")

    @contextmanager
    def _settled(self, commit: bool = True) -> Iterator[None]:
        """Hold the session with nothing under way and, if asked for, the newest frame in the window."""
        self._enter()
        try:
            self._drain()
            late, self._late = self._late, None
            if commit:
                if late is not None:
                    self._check_late(late)
                if self._uncommitted:
                    self._worker.call(self._commit)
            yield
        finally:
            self._entered.release()

    def _drain(self) -> None:
        if self._seat is not None:
            self._seat.drain()
        self._worker.drain()

    def _check_late(self, late: Job) -> None:
        if late.error is not None:
            raise EngineError(
                f"tick {self.tick}, answered with 'repeated' before, has failed: {late.error}"
            ) from late.error

    def _replace(self, window: Window, state: SessionState, shown: np.ndarray, controller: Controller) -> np.ndarray:
        """Go on from somewhere else; takes over the window, and returns the picture for the caller."""
        try:
            plan = self._planned(controller, state)
        except BaseException:
            window.close()
            raise
        self._window.close()
        self._window, self._state, self._newest = window, state, (state.tick, shown)
        self._controller, self._plan = controller, plan
        self._costs = self._expected(controller)
        self._past.clear()
        self._uncommitted = False
        picture: np.ndarray = shown.copy()
        return picture
