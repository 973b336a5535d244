"""Sampler: the denoising loop of one tick, from noise to pixels."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from .controller import Controller, Plan
from .engine import Workspace
from .errors import EngineError
from .frame_cache import Window
from .latency import LatencyModel
from .noise import NoiseSource
from .spec import WorldSpec
from .tick import StoppedBy

MS_PER_NS = 1e-6


@dataclass(frozen=True)
class Request:
    """One tick as asked for, checked."""

    action: np.ndarray
    """`float32[action width]`, encoded."""
    plan: Plan
    steps: int | None
    """Exactly this many denoising steps; None for the controller's choice."""
    budget_ms: float
    started_ns: int
    """When the caller called, on the clock of `time.perf_counter_ns`."""


@dataclass(frozen=True)
class Sample:
    """One finished frame. Its clean latent is still in the workspace, ready to be committed."""

    pixels: np.ndarray
    """`uint8[H, W, 3]`, fresh."""
    confidence: float
    score: float
    """The confidence head's own output after the last step, through a sigmoid; not calibrated."""
    stopped_by: StoppedBy
    denoise_ms: tuple[float, ...]
    decode_ms: float


class Sampler:
    """Runs the steps of one session's ticks. Writes to the workspace only, so failing leaves no trace."""

    def __init__(self, spec: WorldSpec, workspace: Workspace, controller: Controller, latency: LatencyModel) -> None:
        self._spec, self._workspace, self._controller, self._latency = spec, workspace, controller, latency
        self._noise = NoiseSource(workspace.latent.size, spec.schedule.steps)

    def prepare(self, seed: int, tick: int) -> None:
        """Draw the noise of a coming tick in idle time. `run` draws what it does not find."""
        self._noise.draw(seed, tick)

    def warm_up(self, window: Window, runs: int) -> None:
        """Run each stage a few times: the first tick shall find threads started and costs known."""
        workspace, pixels = self._workspace, self._new_pixels()
        workspace.look_at(window)
        workspace.level[0] = self._spec.schedule.levels[0]
        for _ in range(runs):
            self._latency.record("denoise", workspace.denoise() * MS_PER_NS)
            self._latency.record("decode", workspace.decode(pixels) * MS_PER_NS)

    def run(self, request: Request, window: Window, seed: int, tick: int) -> Sample:
        """Denoise until the controller, the budget or the request says stop, and decode."""
        workspace, levels = self._workspace, self._spec.schedule.levels
        workspace.look_at(window)
        workspace.action[0] = request.action
        noise = self._noise.draw(seed, tick).reshape(-1, *workspace.latent.shape)
        workspace.latent[:] = noise[0]
        costs_ms: list[float] = []
        while True:
            step = len(costs_ms) + 1
            workspace.level[0] = levels[step - 1]
            costs_ms.append(workspace.denoise() * MS_PER_NS)
            logit = float(workspace.logit[0])
            if not math.isfinite(logit):
                raise EngineError(f"denoise: the confidence logit of step {step} is {logit}")
            confidence, score = self._confidence(step, logit), _sigmoid(logit)
            stopped_by = self._stop(request, step, confidence, score)
            if stopped_by is not None:
                break
            self._renoise(levels[step], noise[step])
        pixels = self._new_pixels()
        decode_ms = workspace.decode(pixels) * MS_PER_NS
        return Sample(pixels, confidence, score, stopped_by, tuple(costs_ms), decode_ms)

    def _stop(self, request: Request, step: int, confidence: float, score: float) -> StoppedBy | None:
        """Why the tick ends after `step` denoising steps, or None if it goes on."""
        if request.steps is not None:
            return "request" if step == request.steps else None
        controller, latency = self._controller, self._latency
        if step >= request.plan.max_steps:
            return "ceiling"
        if not controller.wants_more(request.plan, step, confidence, score):
            return "confidence"
        step_ms = latency.quantile("denoise", controller.quantile, step + 1)
        decode_ms = latency.quantile("decode", controller.quantile)
        elapsed_ms = (time.perf_counter_ns() - request.started_ns) * MS_PER_NS
        return None if controller.admits(elapsed_ms, request.budget_ms, step_ms, decode_ms) else "budget"

    def _confidence(self, step: int, logit: float) -> float:
        curves = self._spec.calibration.within_delta
        return curves[step - 1](logit) if step <= len(curves) else 1.0  # the last step's frame is the reference

    def _renoise(self, level: float, noise: np.ndarray) -> None:
        """latent = (1 - level) * clean + level * noise, in place."""
        latent = self._workspace.latent
        np.multiply(self._workspace.clean, np.float32(1.0 - level), out=latent)
        latent += noise * np.float32(level)

    def _new_pixels(self) -> np.ndarray:
        frame = self._spec.frame
        return np.empty((frame.height, frame.width, frame.channels), np.uint8)


def _sigmoid(logit: float) -> float:
    return 1.0 / (1.0 + math.exp(-logit)) if logit > -700 else 0.0
