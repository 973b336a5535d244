"""Words: the decision of a tick as one sentence."""

from __future__ import annotations

import math

from ..tick import Tick


def sentence(tick: Tick, schedule_steps: int) -> str:
    """As in "2 of 3 steps: confidence .93 ≥ .76; 14.2 ms of 33; ok"."""
    return f"{_steps(tick, schedule_steps)}; {_time(tick)}; {_status(tick)}"


def _steps(tick: Tick, schedule_steps: int) -> str:
    if tick.status == "repeated":
        return f"not ready in time, so {_again(tick)}"
    if tick.status == "skipped":
        return f"the tick before was not ready, so {_again(tick)}"
    taken = f"{tick.steps} of {schedule_steps} steps"
    if tick.stopped_by == "request":
        return f"{taken}, as asked for"
    if tick.stopped_by == "ceiling":
        return f"{taken}: the whole schedule" if tick.steps == schedule_steps else f"{taken}: no more were allowed"
    confidence = _share(tick.confidence)
    if tick.threshold is not None:
        sign = "≥" if tick.confidence >= tick.threshold else "<"
        confidence = f"{confidence} {sign} {_share(tick.threshold)}"
    if tick.stopped_by == "budget":
        return f"{taken}: confidence {confidence}, no time for another"
    if tick.stopped_by == "deadline":
        return f"{taken}: confidence {confidence}, the next was cut short"
    return f"{taken}: confidence {confidence}"


def _again(tick: Tick) -> str:
    return f"the frame of tick {tick.frame_tick} again" if tick.frame_tick >= 0 else "the first picture again"


def _time(tick: Tick) -> str:
    total, budget_ms = f"{tick.latency_ms['total']:.1f} ms", tick.budget_ms
    if math.isinf(budget_ms):
        return f"{total}, no limit"
    return f"{total} of {budget_ms:.0f}" if budget_ms >= 100 else f"{total} of {budget_ms:.3g}"


def _status(tick: Tick) -> str:
    return f"late by {-tick.slack_ms:.1f} ms" if tick.status == "late" else tick.status


def _share(value: float) -> str:
    """ ".93"; never rounded up to "1.00", which is the whole schedule's."""
    if value >= 1:
        return "1"
    return f"{min(value, 0.99):.2f}"[1:]
