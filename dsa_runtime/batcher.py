"""Batcher: a thread that makes the ticks of many sessions, all their denoising steps in common engine calls.

It works in rounds. A round takes the most urgent of the ticks that are due, each at whatever step it is, and gives each
of them one denoising step by one call; then every tick asks its own controller whether it goes on, and those that do
not are decoded and handed to their callers. So a tick joins at any round, and stops when its own confidence, budget or
deadline says so. Finished frames are committed together, when nothing else is due or somebody waits for them.

With the same number of steps a tick draws the same frame as it would alone, bit for bit. The confidence may differ in
its last bits (some 1e-7), so a tick at the very edge of its threshold may take another number of steps.

Three things differ from a session on its own: a denoising step costs what its round takes; a running round is not cut
short for one of its ticks when the deadline comes, so further steps are granted more cautiously, and asked about again
when their round begins; and nothing is stopped in the middle by `cancel`, although the caller returns at once.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from queue import SimpleQueue
from time import perf_counter_ns, sleep
from typing import TYPE_CHECKING

import numpy as np

from .batch import Batch
from .batch_costs import BatchCosts
from .controller import Controller, Plan
from .engine import Engine
from .errors import EngineError, SessionError
from .frame_cache import FrameCache
from .job import MS_PER_NS, NS_PER_MS, Job, Sample
from .noise import ScheduleNoise
from .recording import digest
from .runner import finish_at_exit
from .sampler import calibrated, kept_shares, why_stop
from .tick import StoppedBy

if TYPE_CHECKING:
    from .session import Session

MOST_ROWS = 16
"""Ticks in a round. More make a denoising step hardly cheaper (1.14 ms a row at 8, 0.98 at 16), and rounds longer."""
_DECODED_TOGETHER = 4
"""Decoding gains nearly nothing from company, so the first ones are not kept waiting for the last."""
_MOST_PATIENCE_MS = 1000.0
"""A tick with more time than this is as urgent as one with this much, or it might never be its turn."""
_ROUNDS_TO_COMMIT = 4
_WARM_UP_RUNS = 3
_YIELD_S = 2e-5  # as in `Session`: lets the callers that were just woken go their way before a commit


class Seat:
    """A session's place at the batcher. One of its ticks is under way at a time, but its commit may still be due."""

    def __init__(self, batcher: Batcher, noise: ScheduleNoise) -> None:
        """For `Batcher.seat`."""
        self.noise = noise
        self._batcher = batcher
        self._changed = threading.Condition()
        self._ticks = 0
        weakref.finalize(self, batcher._seats.pop).atexit = False  # one less, whichever

    def post(self, job: Job, session: Session) -> None:
        """Make this tick, after the session's earlier ones. The batcher holds the session until it is done with it.

        Raises `SessionError` if the world was closed.
        """
        with self._changed:
            self._batcher.post(_Row(job, session, self))
            self._ticks += 1

    def drain(self) -> None:
        """Wait until nothing is left to do for this session."""
        with self._changed:
            if self._ticks:
                self._batcher.hurry()
                self._changed.wait_for(lambda: not self._ticks)

    def release(self) -> None:
        """One tick is over, and all that comes after it. Called by the batcher."""
        with self._changed:
            self._ticks -= 1
            self._changed.notify_all()


class _Row:
    """One tick on its way."""

    __slots__ = (
        "began_ns", "confidences", "denoise_ms", "estimate", "job", "latent", "logit", "plan", "sample", "seat",
        "session", "step", "stopped_by", "urgency_ns",
    )  # fmt: skip

    def __init__(self, job: Job, session: Session, seat: Seat) -> None:
        self.job, self.session, self.seat = job, session, seat
        patience_ms = min(job.allowance_ms, _MOST_PATIENCE_MS)
        self.urgency_ns = job.started_ns + patience_ms * NS_PER_MS
        self.plan: Plan | None = None  # once it has begun
        self.began_ns = 0
        self.step = 0
        self.denoise_ms: tuple[float, ...] = ()
        self.confidences: tuple[float, ...] = ()
        self.latent = self.estimate = np.empty(0, np.float32)
        self.logit = 0.0
        self.stopped_by: StoppedBy = "ceiling"
        self.sample: Sample | None = None


class Batcher:
    """The ticks of all batched sessions of one runtime. Thread-safe."""

    def __init__(self, engine: Engine, cache: FrameCache, rows: int = MOST_ROWS) -> None:
        """Starts the thread and runs rounds of all sizes a few times, so that their costs are known."""
        self._spec, self._limit = engine.spec, rows
        self._batch = Batch(engine, cache, rows)
        self._costs = BatchCosts()
        self._levels = [np.float32(level) for level in self._spec.schedule.levels]
        self._kept = kept_shares(self._spec)
        self.rounds = self.rows = 0
        """Rounds that were run since the start, and ticks that had a step in them."""
        self._seats: list[None] = []  # as a counter that threads may change at any time
        self._posting = threading.Lock()
        self._posted: deque[_Row] = deque()
        self._due: list[_Row] = []  # posted and not finished
        self._after: list[_Row] = []  # handed over, but not committed
        self._rounds_since_commit = 0
        self._hurry = self._closed = False
        self._warm_up()
        self._bell: SimpleQueue[Batcher | None] = SimpleQueue()
        # As with a runner: the thread knows the bell only, so that a forgotten batcher can be collected.
        self._thread = threading.Thread(target=_serve, args=(self._bell,), name=f"dsa-{self._spec.name}", daemon=True)
        self._thread.start()
        weakref.finalize(self, self._bell.put, None).atexit = False
        finish_at_exit(self)

    @property
    def seats(self) -> int:
        """Places taken, by sessions that have not been dropped."""
        return len(self._seats)

    def seat(self) -> Seat:
        """A place for one more session."""
        self._seats.append(None)
        return Seat(self, ScheduleNoise(self._spec.latent.shape, self._spec.schedule.levels))

    def post(self, row: _Row) -> None:
        """For `Seat`."""
        with self._posting:
            if self._closed:
                raise SessionError("the world of this session was closed")
            self._posted.append(row)
            self._bell.put(self)

    def hurry(self) -> None:
        """Commit before the next round: somebody waits."""
        self._hurry = True
        self._bell.put(self)

    def close(self) -> None:
        """End the thread after what was posted. Idempotent."""
        with self._posting:
            self._closed = True
            self._bell.put(None)
        self._thread.join()

    # On the batcher's thread.

    def work(self) -> None:
        """Rounds until nothing is left to do."""
        self._costs.pause()
        try:
            while self._take():
                rows = sorted(self._due, key=lambda row: row.urgency_ns)[: self._limit]
                if self._commit_is_due(rows):
                    if not rows:
                        sleep(_YIELD_S)
                    self._commit()
                rows = [row for row in rows if row.plan is not None or self._begin(row)]
                late = [row for row in rows if self._runs_out_of_time(row, len(rows))]
                rows = [row for row in rows if row not in late]
                stopped = [row for row in self._denoise(rows) if not self._goes_on(row)] if rows else []
                self._decode(late + stopped)
        except Exception as error:  # a defect; nobody may be left waiting for it
            logging.getLogger(__name__).exception("a round has failed")
            for row in (*self._due, *self._after):
                row.job.start(_NOTHING_TO_INTERRUPT)
                row.job.fail(EngineError(f"the batch of this tick has failed: {error}"))
                row.seat.release()
            self._due, self._after = [], []

    def _take(self) -> bool:
        """Take in what was posted, drop what was given up; whether there is anything to do."""
        while self._posted:
            self._due.append(self._posted.popleft())
        for row in [row for row in self._due if row.job.given_up]:
            self._leave(row)
        return bool(self._due or self._after)

    def _commit_is_due(self, rows: list[_Row]) -> bool:
        self._rounds_since_commit += 1
        if not self._after:
            return False
        if not rows or self._hurry or len(self._after) >= self._limit or self._rounds_since_commit > _ROUNDS_TO_COMMIT:
            return True
        waited_for = {row.seat for row in self._after}
        return any(row.seat in waited_for for row in rows)

    def _begin(self, row: _Row) -> bool:
        """Start a tick. False if it is no longer wanted, or cannot be."""
        job, session = row.job, row.session
        if not job.start(_NOTHING_TO_INTERRUPT):
            self._leave(row)
            return False
        try:
            if session._uncommitted:  # only if the commit after the previous tick has failed
                self._commit_rows([row])
            row.seat.noise.draw(session._state.seed, session._state.tick)
        except Exception as error:
            self._fail(row, error)
            return False
        row.plan = job.plan = session._plan
        row.began_ns = perf_counter_ns()
        row.latent = row.seat.noise.of_step[0].copy()
        return True

    def _denoise(self, rows: list[_Row]) -> list[_Row]:
        """One denoising step of each; returns those that have got it."""
        batch = self._batch
        for index, row in enumerate(rows):
            batch.latent[index], batch.level[index] = row.latent, self._levels[row.step]
            batch.action[index] = row.job.action
            batch.look_at(index, row.session._window)
        self._costs.begin()
        try:
            cost_ms = batch.denoise(len(rows)) * MS_PER_NS
        except EngineError as error:
            if len(rows) == 1:
                self._fail(rows[0], error)
                return []
            return [row for one in rows for row in self._denoise([one])]  # it is one's fault: the others go on
        self._costs.record("denoise", len(rows), cost_ms)
        self._costs.end()
        self.rounds += 1
        self.rows += len(rows)
        for index, row in enumerate(rows):
            row.step += 1
            row.denoise_ms += (cost_ms,)
            row.estimate, row.logit = batch.clean[index].copy(), batch.logits.item(index)
        return rows

    def _goes_on(self, row: _Row) -> bool:
        """Whether a tick gets another step in a later round; if so its next input is made."""
        job, session, step = row.job, row.session, row.step
        assert row.plan is not None
        company = min(len(self._due) + len(self._posted), self._limit)
        step_ms, decode_ms = self._needed(session._controller, company)
        try:
            confidence = calibrated(step, row.logit, self._spec.calibration)
            row.confidences += (confidence,)
            stop = why_stop(job, row.plan, step, row.logit, confidence, session._controller, step_ms, decode_ms)
        except EngineError as error:
            self._fail(row, error)
            return True
        if stop is None and not job.may_take(step + 1):
            stop = "deadline"
        if stop is not None:
            row.stopped_by = stop
            return False
        np.multiply(row.estimate, self._kept[step], out=row.latent)
        row.latent += row.seat.noise.of_step[step]
        return True

    def _needed(self, controller: Controller, company: int) -> tuple[float, float]:
        """What a further step and the decoding are expected to take, in ms, with so many ticks about.

        Nothing of it can be abandoned, so all of it is reckoned at the controller's higher quantile. With the step goes
        what lies between two rounds: decoding and committing others. About half of a round is decoded after it.
        """
        q = controller.quantile
        groups = -(-company // (2 * _DECODED_TOGETHER))
        step_ms = (self._costs.quantile("denoise", company, q) or 0.0) + self._costs.between(q)
        return step_ms, groups * (self._costs.quantile("decode", min(company, _DECODED_TOGETHER), q) or 0.0)

    def _runs_out_of_time(self, row: _Row, company: int) -> bool:
        """Whether the step that a tick was granted no longer fits: what came between the rounds took too long."""
        job = row.job
        if not row.step or job.steps is not None:
            return False
        if not job.may_take(row.step + 1):
            row.stopped_by = "deadline"
            return True
        controller = row.session._controller
        step_ms = self._costs.quantile("denoise", company, controller.step_quantile)
        decode_ms = self._costs.quantile("decode", min(company, _DECODED_TOGETHER), controller.quantile)
        elapsed_ms = (perf_counter_ns() - job.started_ns) * MS_PER_NS
        row.stopped_by = "budget"
        return not controller.admits(elapsed_ms, job.allowance_ms, step_ms, decode_ms)

    def _decode(self, rows: list[_Row]) -> None:
        """Decode what has stopped, the most urgent first, and hand it over."""
        batch = self._batch
        for start in range(0, len(rows), _DECODED_TOGETHER):
            some = rows[start : start + _DECODED_TOGETHER]
            for index, row in enumerate(some):
                batch.latent[index] = row.estimate
                row.job.may_decode()
            try:
                pictures, cost_ns = batch.decode(len(some))
            except EngineError as error:  # rows cannot be wrong here: it is the machine
                for row in some:
                    self._fail(row, error)
                continue
            self._costs.record("decode", len(some), cost_ns * MS_PER_NS)
            for row, picture in zip(some, pictures, strict=True):
                self._hand_over(row, picture, cost_ns * MS_PER_NS)

    def _hand_over(self, row: _Row, frames: np.ndarray, decode_ms: float) -> None:
        job, session = row.job, row.session
        wait_ms = (row.began_ns - job.handed_over_ns) * MS_PER_NS
        sample = row.sample = Sample(
            session._state.tick,
            frames,
            row.estimate,
            (),
            row.logit,
            row.confidences,
            row.stopped_by,
            wait_ms,
            row.denoise_ms,
            0.0,
            decode_ms,
        )
        try:
            recorded = digest(frames) if session._recording is not None else ""
            if not job.finish(sample, lambda: session._take_over(job, sample, recorded)):
                self._leave(row)
                return
        except Exception as error:
            self._fail(row, error)
            return
        self._due.remove(row)
        self._after.append(row)

    def _commit(self) -> None:
        """Put the newest frames of handed-over ticks into their windows, and do what can wait until then."""
        self._hurry, self._rounds_since_commit = False, 0
        while self._after:
            some, self._after = self._after[: self._limit], self._after[self._limit :]
            try:
                self._commit_rows(some, tolerant=True)
                for row in some:
                    assert row.sample is not None
                    row.session._learn(row.job, row.sample)
                    row.seat.noise.draw(row.session._state.seed, row.session._state.tick)
            finally:  # the ticks were handed over, so whatever fails now must not keep anybody waiting
                for row in some:
                    row.seat.release()

    def _commit_rows(self, rows: Sequence[_Row], tolerant: bool = False) -> None:
        """`tolerant`: leave what fails for the next tick, which tries again and reports it."""
        batch = self._batch
        for index, row in enumerate(rows):
            state = row.session._state
            batch.latent[index], batch.action[index] = state.latent, state.action
            batch.look_at(index, row.session._window)
        try:
            cost_ns = batch.commit(len(rows), [row.session._window for row in rows])
        except Exception:
            if len(rows) > 1:
                for row in rows:
                    self._commit_rows([row], tolerant)
            elif not tolerant:
                raise
            return
        for row in rows:
            row.session._uncommitted = False
            row.session.latency.record("commit", cost_ns * MS_PER_NS)

    def _fail(self, row: _Row, error: Exception) -> None:
        row.job.fail(error)
        self._leave(row)

    def _leave(self, row: _Row) -> None:
        """The tick ends without a frame."""
        self._due.remove(row)
        row.seat.release()

    def _warm_up(self) -> None:
        size = 1
        while size <= self._limit:
            for _ in range(_WARM_UP_RUNS):
                self._costs.record("denoise", size, self._batch.denoise(size) * MS_PER_NS)
                if size <= _DECODED_TOGETHER:
                    self._costs.record("decode", size, self._batch.decode(size)[1] * MS_PER_NS)
            size *= 2


class _NothingToInterrupt:
    """What a job of the batcher runs in: a round is not cut short for one of its rows."""

    def interrupt_denoise(self) -> None:
        """Nothing."""

    def interrupt(self) -> None:
        """Nothing."""


_NOTHING_TO_INTERRUPT = _NothingToInterrupt()


def _serve(bell: SimpleQueue[Batcher | None]) -> None:
    while (batcher := bell.get()) is not None:
        batcher.work()
        del batcher  # or it would be kept alive while the thread waits
