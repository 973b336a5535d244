"""Sampler: the denoising loop of one tick, from noise to pixels."""

from __future__ import annotations

import math
from time import perf_counter_ns

import numpy as np

from .controller import Controller, Plan
from .engine import Interrupted, Workspace
from .errors import EngineError
from .frame_cache import Window
from .job import MS_PER_NS, Job, Sample
from .latency import Costs, LatencyModel
from .noise import NoiseSource
from .spec import WorldSpec
from .state import SessionState
from .tick import StoppedBy


class Sampler:
    """Runs ticks in one workspace. Writes to the workspace only, so failing leaves no trace in a session.

    Between two runs of ONNX Runtime the processor's caches hold little of Python, and every line here costs ten
    times what it costs alone. So whatever can be done before a tick is done in `prepare`.
    """

    def __init__(self, spec: WorldSpec, workspace: Workspace) -> None:
        self._spec, self._workspace = spec, workspace
        self._source = NoiseSource(workspace.latent.size, spec.schedule.steps)
        self._levels = np.array(spec.schedule.levels, np.float32)
        self._kept = [np.float32(1.0 - level) for level in spec.schedule.levels]
        noise = self._noise = np.zeros_like(workspace.estimates)  # of step k, times the level of step k
        self._noise_of, self._estimate_of = list(noise), list(workspace.estimates)
        self._prepared: tuple[int, int] | None = None

    def prepare(self, window: Window, seed: int, tick: int) -> None:
        """Do in idle time what the coming tick needs; `run` does what it does not find."""
        self._workspace.look_at(window)
        self._workspace.prepare_pixels()
        if self._prepared != (seed, tick):
            noise = self._source.draw(seed, tick).reshape(self._noise.shape)
            np.multiply(noise, self._levels[:, None, None, None], out=self._noise)
            self._prepared = (seed, tick)

    def warm_up(self, window: Window, latency: LatencyModel, runs: int) -> None:
        """Run each stage a few times: the first tick shall find threads started and costs known."""
        workspace = self._workspace
        workspace.look_at(window)
        for _ in range(runs):
            latency.record("denoise", workspace.denoise(1) * MS_PER_NS)
            latency.record("decode", workspace.decode(workspace.estimates[0])[1] * MS_PER_NS)

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
        self.prepare(window, state.seed, state.tick)
        workspace.action[0] = job.action
        latent[0] = self._noise_of[0]
        denoise_ms: tuple[float, ...] = ()
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
            stop = self._stop(job, plan, step, logit, controller, costs)
            if stop is not None:
                stopped_by = stop
                break
            np.multiply(self._estimate_of[step - 1], self._kept[step], out=latent[0])
            latent += self._noise_of[step]
        job.may_decode()
        estimate = self._estimate_of[step - 1].copy()
        pixels, decode_ns = workspace.decode(estimate)
        wait_ms = max(free_ns - job.handed_over_ns, 0) * MS_PER_NS
        return Sample(
            state.tick, pixels, estimate, logit, stopped_by, wait_ms, denoise_ms, abandoned_ms, decode_ns * MS_PER_NS
        )

    def decode(self, latent: np.ndarray) -> np.ndarray:
        """The picture `uint8[H, W, 3]` of a latent `float32[C, h, w]`."""
        return self._workspace.decode(latent)[0]

    def _stop(
        self, job: Job, plan: Plan, step: int, logit: float, controller: Controller, costs: Costs
    ) -> StoppedBy | None:
        """Why the tick ends after `step` denoising steps, or None if it goes on."""
        if not math.isfinite(logit):
            raise EngineError(f"denoise: the confidence logit of step {step} is {logit}")
        if job.steps is not None:
            return "request" if step == job.steps else None
        if step >= plan.max_steps:
            return "ceiling"
        calibration = self._spec.calibration
        if not controller.wants_more(plan, step, calibration.confidence(step, logit), score(logit)):
            return "confidence"
        elapsed_ms = (perf_counter_ns() - job.started_ns) * MS_PER_NS
        fits = controller.admits(elapsed_ms, job.allowance_ms, costs.denoise_ms[step], costs.decode_ms)
        return None if fits else "budget"


def score(logit: float) -> float:
    """The confidence head's own output through a sigmoid: not calibrated."""
    return 1.0 / (1.0 + math.exp(-logit)) if logit > -700 else 0.0
