"""Ticks and pictures as messages carry them. Times on the wire are whole microseconds."""

from __future__ import annotations

import math
from typing import Any, cast, get_args

import numpy as np

from ..tick import LatencyMs, Status, StoppedBy, Tick
from .fields import Fields, array, choice, integer, mapping, number, optional, uint64
from .wire import Buffer, WireError

NO_BUDGET = -1
"""Stands for an infinite budget."""
_US_PER_MS = 1000.0
_MOST_US = 2**53  # what a float64 holds exactly: 285 years


def budget_us(budget_ms: float) -> int:
    """A budget for a request."""
    return NO_BUDGET if math.isinf(budget_ms) else max(_us(budget_ms), 1)


def frame_fields(tick: Tick, budget_ms: float, queue_ms: float) -> dict[str, Any]:
    """The fields of a `frame` but `sid`.

    budget_ms   as asked for. The session was given `queue_ms` less: that time had passed between the arrival of the
                request and the call
    """
    latency = tick.latency_ms
    return {
        "tick": tick.tick,
        "frame_tick": tick.frame_tick,
        "status": tick.status,
        "steps": tick.steps,
        "confidence": float(tick.confidence),
        "confidences": [float(confidence) for confidence in tick.confidences],
        "threshold": None if tick.threshold is None else float(tick.threshold),
        "stopped_by": tick.stopped_by,
        "budget_us": budget_us(budget_ms),
        "credit_us": _us(tick.credit_ms),
        "slack_us": None if math.isinf(tick.slack_ms) else _us(tick.slack_ms),
        "latency_us": {
            "queue": _us(queue_ms),
            "wait": _us(latency["wait"]),
            "denoise": [_us(cost_ms) for cost_ms in latency["denoise"]],
            "abandoned": _us(latency["abandoned"]),
            "decode": _us(latency["decode"]),
            "sdk": _us(latency["sdk"]),
            "total": _us(queue_ms + latency["total"]),
        },
    }


def tick_of(fields: Fields, pictures: np.ndarray) -> Tick:
    """The tick that a `frame` tells of, with its pictures, `uint8[F, height, width, 3]`; `uint8[height, width, 3]` for
    a single one. Raises `WireError`.

    Its `latency_ms` counts from the arrival of the request at the server; what it waited there is part of `wait`.
    """
    latency = mapping(fields, "latency_us")
    budget = integer(fields, "budget_us", NO_BUDGET, _MOST_US)
    slack = optional(_ms, fields, "slack_us")
    steps = integer(fields, "steps", 0, 2**31 - 1)
    several = pictures.ndim == 4
    return Tick(
        pixels=pictures[-1] if several else pictures,
        tick=uint64(fields, "tick"),
        frame_tick=integer(fields, "frame_tick", -1, 2**63 - 1),
        steps=steps,
        confidence=number(fields, "confidence"),
        threshold=optional(number, fields, "threshold"),
        stopped_by=cast(StoppedBy, choice(fields, "stopped_by", get_args(StoppedBy))),
        budget_ms=math.inf if budget == NO_BUDGET else budget / _US_PER_MS,
        credit_ms=_ms(fields, "credit_us"),
        slack_ms=math.inf if slack is None else slack,
        status=cast(Status, choice(fields, "status", get_args(Status))),
        latency_ms=LatencyMs(
            wait=_ms(latency, "queue") + _ms(latency, "wait"),
            denoise=tuple(_ms({"denoise": cost}, "denoise") for cost in array(latency, "denoise")),
            abandoned=_ms(latency, "abandoned"),
            decode=_ms(latency, "decode"),
            sdk=_ms(latency, "sdk"),
            total=_ms(latency, "total"),
        ),
        confidences=_confidences(fields, steps),
        frames=pictures if several else pictures[np.newaxis],
    )


def pictures_of(tick: Tick) -> np.ndarray:
    """What the frame of a tick's reply holds: `uint8[F, height, width, 3]`, or `[height, width, 3]` where F is 1."""
    return tick.frames if len(tick.frames) > 1 else tick.pixels


def picture_buffer(pixels: np.ndarray) -> Buffer:
    """One picture or several, raw, in a part of its own; not copied."""
    return Buffer("frame", "u1", pixels.shape, np.ascontiguousarray(pixels).data.cast("B"))


def raw_pixels(buffer: Buffer) -> np.ndarray:
    """`uint8[height, width, 3]`, or `[F, height, width, 3]`, fresh, of a raw frame in a part of its own. Raises
    `WireError` for any other."""
    is_pictures = buffer.dtype == "u1" and len(buffer.shape) in (3, 4) and buffer.shape[-1] == 3
    if buffer.data is None or buffer.encoding != "raw" or not is_pictures:
        raise WireError("malformed", f"bufs.{buffer.name}: expected raw u1 [height, width, 3], or several of these")
    pixels: np.ndarray = np.frombuffer(buffer.data, np.uint8).reshape(buffer.shape).copy()
    return pixels


def _confidences(fields: Fields, steps: int) -> tuple[float, ...]:
    """After each step; none from a server that does not say them yet."""
    values = optional(array, fields, "confidences") or []
    if len(values) not in (0, steps):
        raise WireError("malformed", f"confidences: expected {steps}, one per step, got {len(values)}")
    return tuple(number({"confidences": value}, "confidences") for value in values)


def _us(ms: float) -> int:
    return round(ms * _US_PER_MS)


def _ms(fields: Fields, name: str) -> float:
    return integer(fields, name, -_MOST_US, _MOST_US) / _US_PER_MS
