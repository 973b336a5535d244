"""Tick: what one `Session.step` call returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypedDict

import numpy as np

Status = Literal["ok", "late", "repeated", "skipped"]
"""What the caller got, and when.

`ok`        this tick's frame, within the budget
`late`      this tick's frame, but the call outlasted its budget
`repeated`  the newest finished frame, because this tick's was not ready in time. The tick goes on in the
            background and what it draws is the next tick's past
`skipped`   as `repeated`, but the tick before was itself still being drawn: this action was not taken in, and
            the world did not move. The two last are only given by sessions with `on_miss="repeat"`
"""

StoppedBy = Literal["confidence", "budget", "ceiling", "request", "deadline"]
"""Why no further denoising step was run: the confidence sufficed, the next step did not fit the budget, the
policy's or the schedule's last step was reached, the caller had asked for exactly this many, or the deadline
came while a step was running: then it was abandoned, and the frame is that of the step before."""


_OF_PIXELS = np.empty(0, np.uint8)


class LatencyMs(TypedDict):
    """Where the time of one tick went, in milliseconds. The stages add up to `total`."""

    wait: float
    """Until the worker was free for this tick: the previous tick's commit runs after its frame was returned."""
    denoise: tuple[float, ...]
    """Inside the engine, one value per finished denoising step."""
    abandoned: float
    """Inside the engine, on a step that the deadline cut short; almost always 0."""
    decode: float
    """Inside the engine."""
    sdk: float
    """Everything else: validation, handing over to the worker and back, decisions, making this object."""
    total: float
    """From call to return."""


@dataclass(frozen=True, eq=False)
class Tick:
    """What one call of `Session.step` came to."""

    pixels: np.ndarray
    """`uint8[height, width, 3]`, RGB: the newest picture. Freshly allocated: the caller owns it and may write to it."""
    tick: int
    """Index of this tick since reset, from 0."""
    frame_tick: int
    """The tick whose frame `pixels` is; -1 for the picture that the session started from. Equal to `tick`
    unless `status` is `repeated` or `skipped`."""
    steps: int
    """Denoising steps taken; 0 while they are not known (`repeated`, `skipped`)."""
    confidence: float
    """Calibrated probability that this frame is within the world's delta of its last step (`CalibrationSpec.deltas`)
    of the full schedule's frame; 1.0 after the full schedule; 0.0 where no frame was made. The paper's policy judges
    by the uncalibrated head instead, but this field means the same there."""
    threshold: float | None
    """Confidence at which the tick would stop; None where the policy has no threshold."""
    stopped_by: StoppedBy
    budget_ms: float
    """As asked for."""
    credit_ms: float
    """What the controller allowed on top, from the savings of earlier ticks; 0 unless it was told to."""
    slack_ms: float
    """Budget and credit left at return; negative when late."""
    status: Status
    latency_ms: LatencyMs
    confidences: tuple[float, ...] = ()
    """As `confidence`, after each denoising step: one value per step, the last of them is `confidence`. Empty where
    `steps` is 0, and in the ticks of a server that does not say them yet."""
    frames: np.ndarray = field(default_factory=lambda: _OF_PIXELS)
    """`uint8[F, height, width, 3]`: all pictures of this tick, oldest first, F the world's `frame.frames_per_tick`,
    which is 1 in most; the last of them is `pixels`, in the same memory."""

    def __post_init__(self) -> None:
        if self.frames is _OF_PIXELS:
            object.__setattr__(self, "frames", self.pixels[np.newaxis])
