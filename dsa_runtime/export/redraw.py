"""Redraw: a recording's ticks with their pictures, and with what was measured when they were played."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..recording import Decision, Played, Recording, digest
from ..replay import start
from ..tick import LatencyMs, Tick

if TYPE_CHECKING:
    from ..world import World

_NO_PIXELS = np.empty((0, 0, 3), np.uint8)


@dataclass(frozen=True, eq=False)
class Redrawn:
    """One tick of a recording, drawn again."""

    tick: Tick
    """As it was played, as far as the recording says. Otherwise, and its pixels and confidences always, as it was drawn
    now."""
    decision: Decision
    same: bool
    """Whether the picture is the recorded one, bit for bit."""


def redraw(world: World, recording: Recording) -> Iterator[Redrawn]:
    """Draw a recording again, one tick at a time. Raises `RecordingError` if it does not fit the world."""
    with start(world, recording) as session:
        for decision in recording.decisions:
            drawn = session.step(decision.action, math.inf, steps=decision.steps)
            yield Redrawn(as_played(decision, drawn), decision, digest(drawn.pixels) == decision.digest)


def as_played(decision: Decision, drawn: Tick) -> Tick:
    """The drawn tick with what the recording knows of it."""
    played = decision.played
    if played is None:
        return dataclasses.replace(drawn, threshold=decision.threshold)
    described = _described(drawn.tick, decision, played)
    return dataclasses.replace(described, pixels=drawn.pixels, confidences=drawn.confidences)


def without_pictures(recording: Recording) -> list[Tick] | None:
    """Its ticks with empty `pixels`, without drawing any; None where the recording lacks measurements of a tick."""
    ticks = []
    for index, decision in enumerate(recording.decisions, recording.first_tick):
        if decision.played is None:
            return None
        ticks.append(_described(index, decision, decision.played))
    return ticks


def without_picture(tick: Tick) -> Tick:
    """The tick with empty `pixels`, to be kept in numbers."""
    return dataclasses.replace(tick, pixels=_NO_PIXELS)


def _described(index: int, decision: Decision, played: Played) -> Tick:
    return Tick(
        pixels=_NO_PIXELS,
        tick=index,
        frame_tick=index,
        steps=decision.steps,
        confidence=played.confidence,
        threshold=decision.threshold,
        stopped_by=played.stopped_by,  # type: ignore[arg-type]  # checked when it was read
        budget_ms=played.budget_ms,
        credit_ms=played.credit_ms,
        slack_ms=played.budget_ms + played.credit_ms - played.total_ms,
        status=played.status,  # type: ignore[arg-type]
        latency_ms=LatencyMs(
            wait=played.wait_ms,
            denoise=played.denoise_ms,
            abandoned=played.abandoned_ms,
            decode=played.decode_ms,
            sdk=played.sdk_ms,
            total=played.total_ms,
        ),
    )
