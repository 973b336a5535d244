"""Tick: what one `Session.step` call returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np

Status = Literal["ok", "late"]
"""`ok`: returned within the budget. `late`: the frame is complete, but the call outlasted its budget."""

StoppedBy = Literal["confidence", "budget", "ceiling", "request"]
"""Why no further denoising step was run: the confidence sufficed, the next step did not fit the budget, the
policy's or the schedule's last step was reached, or the caller had asked for exactly this many."""


class LatencyMs(TypedDict):
    """Where the time of one tick went, in milliseconds. The stages add up to `total`."""

    wait: float
    """Waiting for the previous tick's commit, which runs after its frame was returned."""
    denoise: tuple[float, ...]
    """Inside the engine, one value per denoising step."""
    decode: float
    """Inside the engine."""
    sdk: float
    """Everything else: validation, noise, decisions, making this object."""
    total: float
    """From call to return."""


@dataclass(frozen=True, eq=False)
class Tick:
    """One finished frame and how it came to be."""

    pixels: np.ndarray
    """`uint8[height, width, 3]`, RGB. Freshly allocated: the caller owns it and may write to it."""
    tick: int
    """Index of this tick since reset, from 0."""
    steps: int
    """Denoising steps taken."""
    confidence: float
    """Calibrated probability that this frame is within the world's `delta` of the full schedule's frame; 1.0
    after the full schedule. The paper's policy judges by the uncalibrated head instead, but this field means
    the same there."""
    threshold: float | None
    """Confidence at which the tick would stop; None where the policy has no threshold."""
    stopped_by: StoppedBy
    budget_ms: float
    slack_ms: float
    """Budget left at return; negative when late."""
    status: Status
    latency_ms: LatencyMs
