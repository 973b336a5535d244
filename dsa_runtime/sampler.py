"""Sampler: the denoising loop of one tick, from noise to pixels."""

from __future__ import annotations

import math
from time import perf_counter_ns

import numpy as np

from .bindings import Interrupted
from .calibration import CalibrationSpec
from .controller import Controller, Plan
from .decoder import Stream
from .errors import EngineError
from .frame_cache import Window
from .job import MS_PER_NS, Job, Sample
from .latency import Costs, LatencyModel
from .noise import ScheduleNoise
from .spec import WorldSpec
from .state import SessionState
from .tick import StoppedBy
from .workspace import Workspace


class Sampler:
    """Runs ticks in one workspace. Writes to the workspace only, so failing leaves no trace in a session.

    Between two runs of ONNX Runtime the processor's caches hold little of Python, and every line here costs ten
    times what it costs alone. So whatever can be done before a tick is done in `prepare`.
    """

    def __init__(self, spec: WorldSpec, workspace: Workspace) -> None:
        self._spec, self._workspace = spec, workspace
        self._noise = ScheduleNoise(spec.latent.shape, spec.schedule.levels)
        self._kept = kept_shares(spec)
        self._estimate_of = list(workspace.estimates)

    def prepare(self, window: Window, state: SessionState) -> None:
        """Do in idle time what the coming tick needs; `run` does what it does not find."""
        self._workspace.look_at(window, state.prompt)
        self._workspace.prepare_pixels()
        self._noise.draw(state.seed, state.tick)

    def warm_up(self, window: Window, state: SessionState, latency: LatencyModel, runs: int) -> None:
        """Run each stage a few times: the first tick shall find threads started and costs known."""
        workspace = self._workspace
        workspace.look_at(window, state.prompt)
        stream: Stream = state.stream
        for _ in range(runs):
            latency.record("denoise", workspace.denoise(1) * MS_PER_NS)
            _, stream, decode_ns = workspace.decode(workspace.estimates[0], stream)
            latency.record("decode", decode_ns * MS_PER_NS)

    def run(
        self,
        job: Job,
        plan: Plan,
        window: Window,
        state: SessionState,
        controller: Controller,
        costs: Costs,
        free_ns: int,
    ) -> Sample:
        """Denoise until the controller, the budget, the deadline or the request says stop, and decode.

        x_1 = noise_1, x_k = (1 - t_k) * estimate_{k-1} + t_k * noise_k. `free_ns` is when the worker had finished
        what it did before.
        """
        workspace, latent = self._workspace, self._workspace.latent
        self.prepare(window, state)
        workspace.action[0] = job.action
        latent[0] = self._noise.of_step[0]
        denoise_ms: tuple[float, ...] = ()
        confidences: tuple[float, ...] = ()
        abandoned_ms, logit, step = 0.0, 0.0, 0
        while True:
            if not job.may_take(step + 1):
                stopped_by: StoppedBy = "deadline"
                break
            began_ns = perf_counter_ns()
            try:
                denoise_ms += (workspace.denoise(step + 1) * MS_PER_NS,)
            except Interrupted:
                if not step:
                    raise  # the whole tick was abandoned
                stopped_by, abandoned_ms = "deadline", (perf_counter_ns() - began_ns) * MS_PER_NS
                break
            logit = workspace.logits.item(step)
            step += 1
            confidence = calibrated(step, logit, self._spec.calibration)
            confidences += (confidence,)
            step_ms = None if step == len(costs.denoise_ms) else costs.denoise_ms[step]
            stop = why_stop(job, plan, step, logit, confidence, controller, step_ms, costs.decode_ms)
            if stop is not None:
                stopped_by = stop
                break
            np.multiply(self._estimate_of[step - 1], self._kept[step], out=latent[0])
            latent += self._noise.of_step[step]
        job.may_decode()
        estimate = self._estimate_of[step - 1].copy()
        frames, stream, decode_ns = workspace.decode(estimate, state.stream)
        wait_ms = max(free_ns - job.handed_over_ns, 0) * MS_PER_NS
        decode_ms = decode_ns * MS_PER_NS
        return Sample(
            state.tick, frames, estimate, stream, logit, confidences, stopped_by, wait_ms, denoise_ms, abandoned_ms,
            decode_ms,
        )  # fmt: skip

    def picture(self, state: SessionState) -> np.ndarray:
        """The newest picture of a session at this state, `uint8[H, W, 3]`, fresh."""
        if state.shown is not None:
            shown: np.ndarray = state.shown.copy()
            return shown
        frames, _, _ = self._workspace.decode(state.latent)
        pixels: np.ndarray = frames[-1]
        return pixels


def calibrated(step: int, logit: float, calibration: CalibrationSpec) -> float:
    """The confidence after `step` denoising steps. Raises `EngineError` for a logit that is no number."""
    if not math.isfinite(logit):
        raise EngineError(f"denoise: the confidence logit of step {step} is {logit}")
    return calibration.confidence(step, logit)


def why_stop(
    job: Job,
    plan: Plan,
    step: int,
    logit: float,
    confidence: float,
    controller: Controller,
    step_ms: float | None,
    decode_ms: float | None,
) -> StoppedBy | None:
    """Why the tick ends after `step` denoising steps, or None if it goes on.

    `step_ms` and `decode_ms` are what a further step and the decoding are expected to cost.
    """
    if job.steps is not None:
        return "request" if step == job.steps else None
    if step >= plan.max_steps:
        return "ceiling"
    if not controller.wants_more(plan, step, confidence, score(logit)):
        return "confidence"
    elapsed_ms = (perf_counter_ns() - job.started_ns) * MS_PER_NS
    return None if controller.admits(elapsed_ms, job.allowance_ms, step_ms, decode_ms) else "budget"


def kept_shares(spec: WorldSpec) -> list[np.float32]:
    """1 - t_k per denoising step: what is left of the estimate before when step k's noise is added."""
    return [np.float32(1.0 - level) for level in spec.schedule.levels]


def score(logit: float) -> float:
    """The confidence head's own output through a sigmoid: not calibrated."""
    return 1.0 / (1.0 + math.exp(-logit)) if logit > -700 else 0.0
