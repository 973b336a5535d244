"""Watchdog: the caller of a tick waits for it, and sees to it that its call returns when the deadline comes."""

from __future__ import annotations

import math
from typing import Literal

from .controller import Controller
from .errors import DeadlineError
from .job import NS_PER_MS, Job
from .latency import Costs

OnMiss = Literal["best_effort", "repeat", "raise"]
"""What a tick does that cannot keep its budget; see `World.session`."""
ON_MISS = ("best_effort", "repeat", "raise")
_INTERRUPT_MS = 0.3  # from asking a step to end until the worker goes on; ONNX Runtime takes 0.1 to 0.2 of it


def watch(job: Job, tick: int, controller: Controller, costs: Costs, on_miss: OnMiss) -> None:
    """Wait for a tick, or for its deadline where `on_miss` does not wait longer. Raises `DeadlineError`."""
    if job.steps is not None or math.isinf(job.allowance_ms):
        job.wait()
        return
    until_ns = leave_ns(job.started_ns, job.allowance_ms, controller)
    reserve_ms = _INTERRUPT_MS + (costs.decode_ms or 0.0)
    if controller.rescue and not job.wait(until_ns - reserve_ms * NS_PER_MS):
        job.cut_short()
    if on_miss == "best_effort":
        job.wait()
    elif not job.wait(until_ns) and on_miss == "raise" and job.abandon():
        raise DeadlineError(f"tick {tick}: not ready within budget_ms = {job.budget_ms:g}; it was undone")


def leave_ns(started_ns: int, allowance_ms: float, controller: Controller) -> float:
    """When a call that began then has to return, on the clock of `time.perf_counter_ns`."""
    return started_ns + (allowance_ms - controller.guard_ms) * NS_PER_MS
