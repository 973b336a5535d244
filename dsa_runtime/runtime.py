"""Runtime: what the sessions of a world share, for one number of threads per graph."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .batcher import Batcher, Seat
from .controller import Controller, ControllerState
from .decoder import Stream
from .engine import Engine, available_cores
from .errors import SessionError
from .frame_cache import FrameCache, Window
from .job import MS_PER_NS
from .latency import LatencyModel
from .prompt import Prompt, embeddings
from .runner import Runner, RunnerPool
from .seeds import SeedContexts
from .snapshot import Snapshot
from .state import SessionState

_WARM_UP_RUNS = 6
_NOT_BEGUN: Stream = ()


class Runtime:
    """Graphs, cached frames, start contexts and worker threads. Thread-safe."""

    def __init__(
        self, engine: Engine, cache: FrameCache, seeds: SeedContexts, prompts: Mapping[str, np.ndarray]
    ) -> None:
        self.spec, self.engine, self.cache, self.seeds = engine.spec, engine, cache, seeds
        self._texts = prompts
        # One is large (190 MB in a model of 30 layers), so a prompt that no session has is not kept.
        self._prompts: weakref.WeakValueDictionary[str, Prompt] = weakref.WeakValueDictionary()
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

    def prompt(self, asked: Any) -> Prompt | None:
        """The prompt that a caller means, None the world's own; None in a world that takes no text.

        Raises `PromptError` and `EngineError`.
        """
        if asked is None:
            if not self._texts:
                return None
            asked = next(iter(self._texts))
        text, name = embeddings(self.spec, self._texts, asked)
        if name is None:
            return Prompt(text, self.engine.condition(text))
        with self._lock:
            prompt = self._prompts.get(name)
            if prompt is None:
                prompt = self._prompts[name] = Prompt(text, self.engine.condition(text), name)
            return prompt

    def context(
        self, runner: Runner, latency: LatencyModel, seed: int, history: int, prompt: Prompt | None
    ) -> tuple[Window, SessionState, np.ndarray]:
        """Start context `seed % count`: a window filled with it, the state to go on from, its last picture."""
        index = seed % self.seeds.count
        actions, recorded = self.seeds.actions[index], self.seeds.frames
        if recorded is not None:
            latents = self.engine.encode(recorded[index])
        else:
            assert self.seeds.latents is not None
            latents = self.seeds.latents[index]
        window = self.window_on(runner, latents, actions, history, prompt, latency)
        try:
            picture, stream = self._decoded(runner, latents)
        except BaseException:
            window.close()
            raise
        if recorded is not None:
            picture = recorded[index][-1].reshape(self.spec.frame.tick_shape)[-1].copy()
        state = SessionState(
            seed=seed,
            tick=0,
            controller=ControllerState(),
            action=actions[-1].copy() if len(actions) else np.zeros(self.spec.action_space.width, np.float32),
            latent=latents[-1] if len(latents) else np.zeros(self.spec.latent.shape, np.float32),
            stream=stream,
            shown=picture.copy() if self.spec.keeps_picture else None,
            prompt=prompt,
        )
        return window, state, picture

    def _decoded(self, runner: Runner, latents: np.ndarray) -> tuple[np.ndarray, Stream]:
        """The last picture of these ticks, black for none, and the stream after them, in worlds that keep them."""
        picture, stream = np.zeros(self.spec.frame.shape, np.uint8), _NOT_BEGUN
        if self.spec.keeps_picture:
            for latent in latents:
                frames, stream, _ = runner.workspace.decode(latent, stream)
                picture = frames[-1]
        return picture, stream

    def open(
        self, runner: Runner, latency: LatencyModel, seed: int, history: int, prompt: Prompt | None
    ) -> tuple[Window, SessionState, np.ndarray]:
        """As `context`, and runs each stage a few times, so that the first tick finds costs known."""
        window, state, picture = self.context(runner, latency, seed, history, prompt)
        try:
            runner.sampler.warm_up(window, state, latency, _WARM_UP_RUNS)
            runner.sampler.prepare(window, state)
        except BaseException:
            window.close()
            raise
        return window, state, picture

    def window_on(
        self,
        runner: Runner,
        latents: np.ndarray,
        actions: np.ndarray,
        history: int,
        prompt: Prompt | None,
        latency: LatencyModel,
    ) -> Window:
        """A window on these ticks, oldest first, committed one after the other."""
        window = self.cache.window(history)
        try:
            for latent, action in zip(latents, actions, strict=True):
                latency.record("commit", runner.workspace.commit(window, latent, action, prompt) * MS_PER_NS)
        except BaseException:
            window.close()
            raise
        return window

    def taken(self, window: Window, state: SessionState, controller: Controller) -> Snapshot:
        """All of a session at this state, whose newest tick is in the window."""
        frames, sources = self.cache.read(window.slots), self.cache.read_sources(window.slots)
        text = None if state.prompt is None else state.prompt.text
        return Snapshot(state, controller, tuple(frames), tuple(sources), text)

    def restored(self, runner: Runner, found: Snapshot, history: int) -> tuple[Window, SessionState, np.ndarray]:
        """The reverse: a window with the snapshot's ticks, the state to go on from, its newest picture."""
        state = found.state
        if found.text is not None:
            known = (name for name, text in self._texts.items() if np.array_equal(text, found.text))
            state = replace(state, prompt=self.prompt(next(known, found.text)))
        picture = runner.sampler.picture(state)
        return self._window_of(found.frames, found.sources, history), state, picture

    def _window_of(self, frames: Sequence[np.ndarray], sources: Sequence[np.ndarray], history: int) -> Window:
        """A window on ticks from elsewhere, oldest first.

        frames    `float32[ticks, tokens, heads, head_dim]` per pool
        sources   as many for each of the cache's sources
        """
        window = self.cache.window(history)
        try:
            slots = [self.cache.allocate() for _ in range(len(frames[0]))]
            for slot in slots:
                window.push(slot)
            self.engine.write(self.cache, slots, frames)
            self.cache.write_sources(slots, sources)
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
