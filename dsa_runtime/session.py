"""Session: one running world. `step` turns an action into a frame within a budget."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from .arguments import check_budget, check_seed, check_steps
from .controller import Controller, ControllerState
from .engine import Engine, Workspace
from .errors import SessionError
from .frame_cache import FrameCache, Window
from .latency import LatencyModel
from .recording import Decision, Recording, digest
from .sampler import MS_PER_NS, Request, Sample, Sampler
from .seeds import SeedContexts
from .tick import LatencyMs, Tick

_WARM_UP_RUNS = 6


@dataclass(frozen=True)
class _State:
    """What one tick changes, apart from the window. Replaced as a whole, never in part."""

    seed: int
    tick: int
    controller: ControllerState


class Session:
    """One running instance of a world: a window into the frame cache, a seed and a tick counter.

    Made by `World.session`. A tick returns its frame before the frame is committed to the cache; the commit
    runs on the session's worker thread meanwhile, and the next call waits for it. A call that raises leaves
    the session as it was.

    Sessions of one world may run on different threads at the same time; one session serves one thread at a
    time and refuses a second one. Close it, or use it in a `with` statement; a session that is merely dropped
    gives its slots back when it is collected.
    """

    def __init__(
        self,
        engine: Engine,
        cache: FrameCache,
        seeds: SeedContexts,
        seed: int,
        controller: Controller,
        record: bool,
    ) -> None:
        """For `World.session`."""
        self.spec = engine.spec
        self.controller = controller
        self.latency = LatencyModel()
        """Measured cost of this session's stages."""
        self.recording: Recording | None = None
        """What was decided since the last reset, if the session was opened with `record=True`."""
        self._engine, self._cache, self._seeds = engine, cache, seeds
        self._record = record
        self._entered = threading.Lock()
        self._closed = False
        self._workspace = Workspace(engine, cache)
        self._sampler = Sampler(self.spec, self._workspace, controller, self.latency)
        self._pending: Future[None] | None = None
        self._uncommitted = False
        self._window = cache.window()
        self._state = _State(0, 0, ControllerState())
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"dsa-{self.spec.name}")
        try:
            self.reset(seed)
            self._sampler.warm_up(self._window, _WARM_UP_RUNS)
            self._worker.submit(self._sampler.prepare, self._state.seed, 0).result()  # also starts the thread
        except BaseException:
            self.close()
            raise

    @property
    def tick(self) -> int:
        """Ticks finished since the last reset; the index of the next one."""
        return self._state.tick

    @property
    def seed(self) -> int:
        """The seed of the last reset."""
        return self._state.seed

    def step(self, action: Any, budget_ms: float | None = None, *, steps: int | None = None) -> Tick:
        """Advance the world by one tick and return its frame.

        action      as the world's action space says (`session.spec.action_space`)
        budget_ms   wall time from call to return; None for one period of the world's native rate, `math.inf`
                    for none. The first denoising step always runs; a further one only if it is expected to
                    fit.
        steps       exactly this many denoising steps, whatever the confidence and the budget: for replay and
                    comparison

        Raises `ActionError`, `BudgetError`, `SessionError` or `EngineError`, and is then as if it had not
        been called.
        """
        started = time.perf_counter_ns()
        self._enter()
        try:
            spec = self.spec
            request = Request(
                action=spec.action_space.encode(action),
                plan=self.controller.plan(
                    self._state.controller, spec.calibration.default_threshold, spec.schedule.steps
                ),
                steps=None if steps is None else check_steps(steps, spec.schedule.steps),
                budget_ms=spec.frame.period_ms if budget_ms is None else check_budget(budget_ms),
                started_ns=started,
            )
            tick = self._advance(request)
            if self.recording is not None:
                asked = spec.action_space.validate(action)  # a copy: the caller may reuse its array
                decision = Decision(asked, tick.steps, tick.threshold, digest(tick.pixels))
                self.recording.decisions.append(decision)
            return tick
        finally:
            self._entered.release()

    def reset(self, seed: int) -> np.ndarray:
        """Start over from context `seed % world.contexts`; returns its last picture, `uint8[H, W, 3]`.

        `seed` (0 <= seed < 2**64) also keys the noise, so that with a sequence of actions and steps it fixes
        every frame.
        """
        seed = check_seed(seed)
        self._enter()
        try:
            if self._pending is not None:
                self._pending.exception()  # waits; a commit that failed no longer matters
            index = seed % self._seeds.count
            window = self._build_context(index)
            self._window.close()
            self._pending, self._uncommitted = None, False
            self._window = window
            self._state = _State(seed, 0, ControllerState())
            if self._record:
                self.recording = Recording(self.spec.name, self.spec.version, seed)
            picture: np.ndarray = self._seeds.frames[index, -1].copy()
            return picture
        finally:
            self._entered.release()

    def close(self) -> None:
        """Give the slots back. Idempotent. Waits for a call in another thread to return."""
        with self._entered:
            if self._closed:
                return
            self._closed = True
            self._worker.shutdown(wait=True)
            self._window.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _enter(self) -> None:
        if not self._entered.acquire(blocking=False):
            raise SessionError("the session is in use by another thread")
        if self._closed:
            self._entered.release()
            raise SessionError("the session is closed")

    def _advance(self, request: Request) -> Tick:
        """One tick. Changes the session only in `_finish`, after everything that can fail."""
        wait_ms = self._settle()
        sample = self._sampler.run(request, self._window, self._state.seed, self._state.tick)
        self._finish(sample)
        return self._report(request, sample, wait_ms)

    def _finish(self, sample: Sample) -> None:
        """Take over the new state. Nothing before this point has changed the session."""
        state = self._state
        controller_state = self.controller.observe(state.controller, sample.score)
        next_state = _State(state.seed, state.tick + 1, controller_state)
        self._uncommitted = True
        self._pending = self._worker.submit(self._after_return, next_state)
        self._state = next_state
        for step, cost_ms in enumerate(sample.denoise_ms, 1):
            self.latency.record("denoise", cost_ms, step)
        self.latency.record("decode", sample.decode_ms)

    def _report(self, request: Request, sample: Sample, wait_ms: float) -> Tick:
        total_ms = (time.perf_counter_ns() - request.started_ns) * MS_PER_NS
        inside_ms = sum(sample.denoise_ms) + sample.decode_ms
        return Tick(
            pixels=sample.pixels,
            tick=self._state.tick - 1,
            steps=len(sample.denoise_ms),
            confidence=sample.confidence,
            threshold=request.plan.threshold,
            stopped_by=sample.stopped_by,
            budget_ms=request.budget_ms,
            slack_ms=request.budget_ms - total_ms,
            status="ok" if total_ms <= request.budget_ms else "late",
            latency_ms=LatencyMs(
                wait=wait_ms,
                denoise=sample.denoise_ms,
                decode=sample.decode_ms,
                sdk=total_ms - wait_ms - inside_ms,
                total=total_ms,
            ),
        )

    def _after_return(self, state: _State) -> None:
        """What a tick leaves to the worker. Nothing else touches its buffers meanwhile."""
        self._commit()
        self._sampler.prepare(state.seed, state.tick)

    def _commit(self) -> None:
        """Put the workspace's clean frame into the window."""
        cost_ns = self._workspace.commit(self._window)
        self._uncommitted = False
        self.latency.record("commit", cost_ns * MS_PER_NS)

    def _settle(self) -> float:
        """Wait until the previous tick is committed. Returns the milliseconds that took."""
        if self._pending is None:
            return 0.0
        started = time.perf_counter_ns()
        self._pending.exception()  # waits
        if self._uncommitted:
            self._commit()  # it failed; once more, as its inputs are still in place
        self._pending = None
        return (time.perf_counter_ns() - started) * MS_PER_NS

    def _build_context(self, index: int) -> Window:
        """A window filled with context `index`, oldest frame first."""
        # Buffers of its own: if this fails, the session goes on with what is in its workspace.
        workspace = Workspace(self._engine, self._cache)
        latents = self._engine.encode(self._seeds.frames[index])
        window = self._cache.window()
        try:
            for latent, action in zip(latents, self._seeds.actions[index], strict=True):
                workspace.clean[0], workspace.action[0] = latent, action
                workspace.look_at(window)
                self.latency.record("commit", workspace.commit(window) * MS_PER_NS)
        except BaseException:
            window.close()
            raise
        return window
