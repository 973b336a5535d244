"""Job: one tick on its way, and what the waiting caller and the worker tell each other about it."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from queue import Empty, SimpleQueue
from time import perf_counter_ns
from typing import NamedTuple, Protocol

import numpy as np

from .controller import Plan
from .device_array import Array
from .tick import StoppedBy

MS_PER_NS = 1e-6
NS_PER_MS = 1e6


class Sample(NamedTuple):  # a NamedTuple is made in a third of the time of a frozen dataclass, and this is per tick
    """One finished tick."""

    tick: int
    frames: np.ndarray
    """`uint8[F, H, W, 3]`, fresh."""
    latent: np.ndarray
    """`float32[*latent]`, fresh: the tick before decoding."""
    stream: tuple[Array, ...]
    """What a streaming decoder remembers after it."""
    logit: float
    """The confidence head's output after the last step."""
    confidences: tuple[float, ...]
    """Calibrated, after each step."""
    stopped_by: StoppedBy
    wait_ms: float
    """From the handover until the worker was free."""
    denoise_ms: tuple[float, ...]
    abandoned_ms: float
    """Spent on a step that was cut short."""
    decode_ms: float


class Interruptible(Protocol):
    """What a tick runs in: a `Workspace`."""

    def interrupt_denoise(self) -> None:
        """From any thread: let a denoising step that is running end."""

    def interrupt(self) -> None:
        """From any thread: as above, and decoding too."""


class _Phase(Enum):
    QUEUED = 0
    RUNNING = 1
    FINISHED = 2
    """With a sample or an error."""
    ABANDONED = 3


class Line:
    """What a session's ticks, one after the other, use between caller and worker. A lock and a queue cost an allocation
    outside Python's own memory each, so they are not made anew for every tick."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.bell: SimpleQueue[None] = SimpleQueue()  # in C; half the cost of a threading.Event

    def clear(self) -> None:
        """Forget who has rung. Someone may still ring for the tick before: whoever waits looks why it was woken."""
        while not self.bell.empty():
            with suppress(Empty):
                self.bell.get_nowait()


class Job:
    """A tick handed to a worker. Every change of phase happens under one lock, so that it has one outcome only:
    a caller that gives up either gets the frame that was finished just then, or can rely on it that the session
    will not change.
    """

    def __init__(
        self,
        action: np.ndarray,
        asked: object,
        steps: int | None,
        budget_ms: float,
        credit_ms: float,
        started_ns: int,
        line: Line,
    ) -> None:
        self.action = action
        """`float32[action width]`, encoded."""
        self.asked = asked
        """The action as given, copied, if it will be recorded."""
        self.steps = steps
        """Exactly this many denoising steps, whatever the time; None for the controller's choice."""
        self.budget_ms, self.credit_ms = budget_ms, credit_ms
        self.allowance_ms = budget_ms + credit_ms
        self.started_ns = started_ns
        """When the caller called, on the clock of `time.perf_counter_ns`."""
        self.plan: Plan | None = None
        """By which steps are allocated; known once the job has started."""
        self.handed_over_ns = perf_counter_ns()
        self.sample: Sample | None = None
        self.error: Exception | None = None
        self.cancelled = False
        self.observed = False
        """Whether the controller has seen the outcome."""
        self.total_ms = 0.0
        """From the call until the frame was finished."""
        line.clear()
        self._lock, self._bell = line.lock, line.bell
        self._phase = _Phase.QUEUED
        self._step = 0
        self._late = self._left = False
        self._workspace: Interruptible | None = None

    # The worker's side.

    def start(self, workspace: Interruptible) -> bool:
        """Whether the tick is still wanted; if so it now runs, in this workspace."""
        with self._lock:
            if self._phase is not _Phase.QUEUED:
                return False
            self._phase, self._workspace = _Phase.RUNNING, workspace
            return True

    @property
    def given_up(self) -> bool:
        """Whether the tick was undone, and need not be made."""
        return self._phase is _Phase.ABANDONED

    def may_take(self, step: int) -> bool:
        """Whether denoising step `step` may begin: not after the deadline, unless it is the first."""
        with self._lock:
            self._step = 0 if self._late and step > 1 else step
            return self._step == step

    def may_decode(self) -> None:
        """No denoising step is running any more: from here on nothing is cut short."""
        with self._lock:
            self._step = 0

    def finish(self, sample: Sample, take_over: Callable[[], None]) -> bool:
        """Let the session `take_over` the result, unless the tick was abandoned."""
        with self._lock:
            if self._phase is not _Phase.RUNNING:
                return False
            self.total_ms = (perf_counter_ns() - self.started_ns) * MS_PER_NS
            take_over()
            self.sample, self._phase, self._workspace = sample, _Phase.FINISHED, None
        self._bell.put(None)
        return True

    def fail(self, error: Exception) -> None:
        """The tick could not be made."""
        with self._lock:
            if self._phase is _Phase.RUNNING:
                self.error, self._phase, self._workspace = error, _Phase.FINISHED, None
        self._bell.put(None)

    # The caller's side.

    @property
    def left(self) -> bool:
        """Whether it goes on, or has ended, without its caller."""
        return self._left

    @property
    def finished(self) -> bool:
        """Whether there is a sample or an error."""
        return self._phase is _Phase.FINISHED

    def wait(self, until_ns: float = math.inf, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Wait until the job is finished or cancelled, the time has come, or someone has rung because the caller is
        `stopped`. Returns whether it is finished.
        """
        while not (self.finished or self.cancelled or stopped()):
            seconds = (until_ns - perf_counter_ns()) * 1e-9
            if seconds <= 0:
                break
            with suppress(Empty):
                self._bell.get(timeout=None if seconds > threading.TIMEOUT_MAX else seconds)
        return self.finished

    def cut_short(self) -> None:
        """The deadline is near: begin no further step, and abandon the one that runs unless it is the first."""
        with self._lock:
            self._late = True
            if self._step > 1 and self._workspace is not None:
                self._workspace.interrupt_denoise()

    def leave(self) -> bool:
        """Let the tick go on without its caller: from here on it is not cancelled. False if it has ended."""
        with self._lock:
            self._left = self._phase in (_Phase.QUEUED, _Phase.RUNNING)
            return self._left

    def abandon(self) -> bool:
        """Undo the tick. False if it is finished or undone already."""
        with self._lock:
            return self._abandon()

    # From any thread.

    def cancel(self) -> bool:
        """Undo the tick and wake its caller. False if it is finished or undone, or goes on without a caller."""
        with self._lock:
            if self._left or not self._abandon():
                return False
            self.cancelled = True
        self._bell.put(None)
        return True

    def ring(self) -> None:
        """Wake whoever waits, and change nothing."""
        self._bell.put(None)

    def _abandon(self) -> bool:
        if self._phase in (_Phase.FINISHED, _Phase.ABANDONED):
            return False
        self._phase = _Phase.ABANDONED
        if self._workspace is not None:
            self._workspace.interrupt()
            self._workspace = None
        return True
