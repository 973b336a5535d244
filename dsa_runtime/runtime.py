"""Runtime: what the sessions of a world share, for one number of threads per graph."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from .batcher import Batcher, Seat
from .controller import ControllerState
from .engine import Engine, available_cores
from .errors import SessionError
from .frame_cache import FrameCache, Window
from .job import MS_PER_NS
from .latency import LatencyModel
from .runner import Runner, RunnerPool
from .seeds import SeedContexts
from .state import SessionState

_WARM_UP_RUNS = 6


class Runtime:
    """Graphs, cached frames, start contexts and worker threads. Thread-safe."""

    def __init__(self, engine: Engine, cache: FrameCache, seeds: SeedContexts) -> None:
        self.spec, self.engine, self.cache, self.seeds = engine.spec, engine, cache, seeds
        self.runners = RunnerPool(engine, cache)
        self._batchers: list[Batcher] = []
        self._lock = threading.Lock()
        self._closed = False

    def seat(self, start: bool = True) -> Seat:
        """A place for one more batched session, at the batcher with the fewest; with `start` maybe at a new one.

        Raises `SessionError` if the world was closed.

        There are as many batchers as the cores can run at the same time: a round of many rows keeps one core as busy as
        a few, so two batchers with a thread each make more ticks than one with two (11 ms of processor time a tick
        against 8, at 12 sessions). They are started when they are first needed.
        """
        with self._lock:
            if self._closed:
                raise SessionError("the world was closed")
            most = max(available_cores() // self.engine.threads, 1)
            if start and len(self._batchers) < most and all(batcher.seats for batcher in self._batchers):
                self._batchers.append(Batcher(self.engine, self.cache))
            return min(self._batchers, key=lambda batcher: batcher.seats).seat()

    @property
    def rounds(self) -> tuple[int, int]:
        """Rounds of all batchers since the start, and the ticks that had a step in them."""
        batchers = list(self._batchers)
        return sum(batcher.rounds for batcher in batchers), sum(batcher.rows for batcher in batchers)

    def context(
        self, runner: Runner, latency: LatencyModel, seed: int, history: int
    ) -> tuple[Window, SessionState, np.ndarray]:
        """Start context `seed % count`: a window filled with it, the state to go on from, its last picture."""
        index = seed % self.seeds.count
        frames, actions = self.seeds.frames[index], self.seeds.actions[index]
        latents = self.engine.encode(frames)
        workspace, window = runner.workspace, self.cache.window(history)
        try:
            for latent, action in zip(latents, actions, strict=True):
                latency.record("commit", workspace.commit(window, latent, action) * MS_PER_NS)
        except BaseException:
            window.close()
            raise
        return window, SessionState(seed, 0, ControllerState(), actions[-1].copy(), latents[-1]), frames[-1].copy()

    def open(
        self, runner: Runner, latency: LatencyModel, seed: int, history: int
    ) -> tuple[Window, SessionState, np.ndarray]:
        """As `context`, and runs each stage a few times, so that the first tick finds costs known."""
        window, state, picture = self.context(runner, latency, seed, history)
        try:
            runner.sampler.warm_up(window, latency, _WARM_UP_RUNS)
            runner.sampler.prepare(window, seed, 0)
        except BaseException:
            window.close()
            raise
        return window, state, picture

    def window_of(self, frames: Sequence[np.ndarray], history: int) -> Window:
        """A window on frames from elsewhere: `float32[frames, tokens, heads, head_dim]` per pool, oldest first."""
        window = self.cache.window(history)
        try:
            slots = [self.cache.allocate() for _ in range(len(frames[0]))]
            for slot in slots:
                window.push(slot)
            self.engine.write(self.cache, slots, frames)
        except BaseException:
            window.close()
            raise
        return window

    def close(self) -> None:
        """End the idle worker threads."""
        self.runners.close()
        with self._lock:
            self._closed = True
        for batcher in self._batchers:
            batcher.close()
