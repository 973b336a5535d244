"""Runner: a worker thread with the buffers that it runs ticks in. Sessions borrow one per tick.

A session between two ticks is a window and a few numbers, so a thousand branches of it cost neither threads nor
buffers; there are as many runners as ticks have ever run at the same time.
"""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from time import perf_counter_ns
from typing import Protocol, TypeVar

from .engine import Engine
from .frame_cache import FrameCache
from .sampler import Sampler
from .workspace import Workspace

_T = TypeVar("_T")
Task = Callable[[], None]


class Runner:
    """One thread that runs the tasks it is given, in order, and what they work with."""

    def __init__(self, engine: Engine, cache: FrameCache) -> None:
        self.workspace = Workspace(engine, cache)
        self.sampler = Sampler(engine.spec, self.workspace)
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        # The thread knows the queue only, so that a forgotten runner can be collected; then the thread ends. It
        # is a daemon, or a program that forgot to close a session would never end; and it is joined at exit,
        # because a thread that comes back from ONNX Runtime into a dying interpreter aborts the process.
        self._thread = threading.Thread(target=_serve, args=(self._tasks,), name=f"dsa-{engine.spec.name}", daemon=True)
        self._thread.start()
        weakref.finalize(self, self._tasks.put, None).atexit = False
        finish_at_exit(self)

    def post(self, task: Task) -> None:
        """Run `task` on the thread, after those posted before. It must not raise."""
        self._tasks.put(task)

    def dismiss(self) -> None:
        """Let the thread end after what was posted. Idempotent."""
        self._tasks.put(None)

    def close(self) -> None:
        """`dismiss`, and wait until it has ended."""
        self.dismiss()
        self._thread.join()


class RunnerPool:
    """The runners of one engine. Thread-safe."""

    def __init__(self, engine: Engine, cache: FrameCache) -> None:
        self._engine, self._cache = engine, cache
        self._lock = threading.Lock()
        self._idle: list[Runner] = []
        self._closed = False

    def borrow(self, preferred: Runner | None = None) -> Runner:
        """An idle runner, if possible the preferred one, which may hold the next tick's noise already."""
        with self._lock:
            if self._idle:
                if preferred in self._idle:
                    self._idle.remove(preferred)
                    return preferred
                return self._idle.pop()
        return Runner(self._engine, self._cache)

    def give_back(self, runner: Runner) -> None:
        """The runner has nothing left to do. Called from its own thread, so after `close` it is only told to end."""
        with self._lock:
            if not self._closed:
                self._idle.append(runner)
                return
        runner.dismiss()

    def close(self) -> None:
        """End the threads, of runners that are still lent when they are given back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for runner in idle:
            runner.close()


class Lease:
    """A session's claim on a runner: borrowed for the first task, given back after the last one that was posted.

    Thread-safe, so that the worker may give back what the session's caller is about to ask for again.
    """

    def __init__(self, pool: RunnerPool) -> None:
        self.free_ns = 0
        """When the latest task ended, on the clock of `time.perf_counter_ns`."""
        self._pool = pool
        self._lock = threading.Lock()
        self._tasks = 0
        self._runner: Runner | None = None
        self._previous: Runner | None = None

    def post(self, task: Callable[[Runner], None]) -> None:
        """Let a runner do `task`, after this session's earlier ones. It must not raise."""
        with self._lock:
            if self._runner is None:
                self._runner = self._pool.borrow(self._previous)
            self._tasks += 1
            self._runner.post(partial(self._perform, self._runner, task))

    def call(self, function: Callable[[Runner], _T]) -> _T:
        """The result of `function` on a runner, or what it raises."""
        result: Future[_T] = Future()

        def task(runner: Runner) -> None:
            try:
                result.set_result(function(runner))
            except BaseException as error:
                result.set_exception(error)

        self.post(task)
        return result.result()

    def drain(self) -> None:
        """Wait until nothing is left to do."""
        if self._tasks:
            self.call(lambda _: None)

    def _perform(self, runner: Runner, task: Callable[[Runner], None]) -> None:
        try:
            task(runner)
        finally:
            self.free_ns = perf_counter_ns()
            with self._lock:
                self._tasks -= 1
                if not self._tasks:
                    self._previous, self._runner = runner, None
                    self._pool.give_back(runner)


def _serve(tasks: SimpleQueue[Task | None]) -> None:
    while (task := tasks.get()) is not None:
        try:
            task()
        except Exception:  # tasks report their own failures; this is a defect, and must not leave callers waiting
            logging.getLogger(__name__).exception("a task has failed")
        del task  # or it would keep a session alive while the thread waits


class Finishing(Protocol):
    """Something with a thread."""

    def close(self) -> None:
        """Let the thread end, and wait for it."""


def finish_at_exit(worker: Finishing) -> None:
    """Close it when Python ends, if it is still there."""
    _WORKERS.add(worker)


_WORKERS: weakref.WeakSet[Finishing] = weakref.WeakSet()


@atexit.register
def _finish_all() -> None:
    for worker in list(_WORKERS):
        worker.close()
