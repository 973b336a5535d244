"""Redraw: a recording's ticks with their pictures, and with what was measured when they were played."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..recording import Decision, Played, Recording, digest
from ..replay import replay
from ..tick import LatencyMs, Tick

if TYPE_CHECKING:
    from ..world import World

_NO_PIXELS = np.empty((0, 0, 3), np.uint8)
_NO_FRAMES = np.empty((0, 0, 0, 3), np.uint8)


@dataclass(frozen=True, eq=False)
class Redrawn:
    """One tick of a recording, drawn again."""

    tick: Tick
    """As it was played, as far as the recording says. Otherwise, and its pictures and confidences always, as it was
    drawn now."""
    decision: Decision
    same: bool
    """Whether its pictures are the recorded ones, bit for bit."""


def redraw(world: World, recording: Recording) -> Iterator[Redrawn]:
    """Draw a recording again, one tick at a time. Raises `RecordingError` if it does not fit the world."""
    for drawn, decision in zip(replay(world, recording), recording.decisions, strict=True):
        yield Redrawn(as_played(decision, drawn), decision, digest(drawn.frames) == decision.digest)


def as_played(decision: Decision, drawn: Tick) -> Tick:
    """The drawn tick with what the recording knows of it."""
    played = decision.played
    if played is None:
        return dataclasses.replace(drawn, threshold=decision.threshold)
    described = _described(drawn.tick, decision, played)
    return dataclasses.replace(described, pixels=drawn.pixels, frames=drawn.frames, confidences=drawn.confidences)


def without_pictures(recording: Recording) -> list[Tick] | None:
    """Its ticks without their pictures, without drawing any; None where the recording lacks measurements of a tick."""
    ticks = []
    for index, decision in enumerate(recording.decisions, recording.first_tick):
        if decision.played is None:
            return None
        ticks.append(_described(index, decision, decision.played))
    return ticks


def without_picture(tick: Tick) -> Tick:
    """The tick with empty `pixels` and `frames`, to be kept in numbers."""
    return dataclasses.replace(tick, pixels=_NO_PIXELS, frames=_NO_FRAMES)


def _described(index: int, decision: Decision, played: Played) -> Tick:
    return Tick(
        pixels=_NO_PIXELS,
        frames=_NO_FRAMES,
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
