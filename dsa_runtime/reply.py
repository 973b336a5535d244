"""Reply: what a call of `Session.step` returns, made from what became of its job."""

from __future__ import annotations

import dataclasses
from time import perf_counter_ns

import numpy as np

from .job import MS_PER_NS, Job, Sample
from .tick import LatencyMs, Status, Tick


def finished(job: Job, sample: Sample) -> Tick:
    """This tick's own frame."""
    assert job.plan is not None
    inside_ms = sum(sample.denoise_ms) + sample.abandoned_ms + sample.decode_ms
    total_ms = _since_ms(job.started_ns)
    return Tick(
        pixels=sample.frames[-1],
        tick=sample.tick,
        frame_tick=sample.tick,
        steps=len(sample.denoise_ms),
        confidence=sample.confidences[-1],
        threshold=job.plan.threshold,
        stopped_by=sample.stopped_by,
        budget_ms=job.budget_ms,
        credit_ms=job.credit_ms,
        slack_ms=job.allowance_ms - total_ms,
        status="ok" if total_ms <= job.allowance_ms else "late",
        latency_ms=LatencyMs(
            wait=sample.wait_ms,
            denoise=sample.denoise_ms,
            abandoned=sample.abandoned_ms,
            decode=sample.decode_ms,
            sdk=total_ms - sample.wait_ms - inside_ms,
            total=total_ms,
        ),
        confidences=sample.confidences,
        frames=sample.frames,
    )


def left(job: Job, sample: Sample) -> Tick:
    """A tick that was answered by `stale` and has been made since, which no caller sees: for recordings. Its time ends
    when its frame was there."""
    made = finished(job, sample)
    latency_ms = made.latency_ms.copy()
    latency_ms["sdk"] += job.total_ms - latency_ms["total"]
    latency_ms["total"] = job.total_ms
    slack_ms = job.allowance_ms - job.total_ms
    return dataclasses.replace(made, status="repeated", slack_ms=slack_ms, latency_ms=latency_ms)


def stale(
    status: Status,
    tick: int,
    newest: tuple[int, np.ndarray],
    frames_per_tick: int,
    started_ns: int,
    budget_ms: float,
    credit_ms: float,
) -> Tick:
    """The newest finished picture instead of this tick's. `newest` is the tick after it, and its pixels."""
    next_tick, frames = newest[0], np.repeat(newest[1][np.newaxis], frames_per_tick, axis=0)
    total_ms = _since_ms(started_ns)
    return Tick(
        pixels=frames[-1],
        tick=tick,
        frame_tick=next_tick - 1,
        steps=0,
        confidence=0.0,
        threshold=None,
        stopped_by="deadline",
        budget_ms=budget_ms,
        credit_ms=credit_ms,
        slack_ms=budget_ms + credit_ms - total_ms,
        status=status,
        latency_ms=LatencyMs(wait=total_ms, denoise=(), abandoned=0.0, decode=0.0, sdk=0.0, total=total_ms),
        frames=frames,
    )


def _since_ms(started_ns: int) -> float:
    return (perf_counter_ns() - started_ns) * MS_PER_NS
