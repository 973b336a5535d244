"""Workspace: the bound buffers that one session's graphs run in."""

from __future__ import annotations

import numpy as np

from .bindings import bind_input, bind_output, run_bound
from .decoder import Decoder, Stream
from .device_array import Array, rows
from .engine import Engine
from .frame_cache import FrameCache, Window
from .ort import ort
from .prompt import Prompt


class Workspace:
    """Buffers to run a session's graphs in, bound once, so that a tick copies and allocates next to nothing.

    The caller fills `latent` and `action`, chooses a window, runs, and reads `estimates` and `logits`, all in
    place. Runs return the nanoseconds spent inside ONNX Runtime. One thread at a time, but for the methods that
    interrupt.
    """

    def __init__(self, engine: Engine, cache: FrameCache) -> None:
        spec = engine.spec
        self._graphs, self._cache = engine.graphs, cache
        steps = spec.schedule.steps
        self.latent = np.zeros((1, *spec.latent.shape), np.float32)
        """`float32[1, *latent]`, the noisy latent that `denoise` reads."""
        self.action = np.zeros((1, spec.action_space.width), np.float32)
        self.slot_table = np.full((1, spec.cache.window), -1, np.int32)
        self.slot_age = np.ones((1, spec.cache.window), np.int32)
        self.estimates = np.zeros((steps, *spec.latent.shape), np.float32)
        """`float32[K, *latent]`, the clean estimate of every step: one that is interrupted spoils its own only."""
        self.logits = np.zeros(steps, np.float32)
        self.clean = np.zeros_like(self.latent)
        """`float32[1, *latent]`, the tick that `commit` reads."""
        self._levels = np.array(spec.schedule.levels, np.float32)
        self._context_level = np.full(1, spec.schedule.context_level, np.float32)
        self._seen: tuple[int, ...] | None = None
        self._prompt: Prompt | None = None
        self._options = ort.RunOptions()
        self._decoder = Decoder(engine)
        self._bind_pools()

    def look_at(self, window: Window, prompt: Prompt | None = None) -> None:
        """Let the next runs attend to this window's frames, and to this prompt in worlds that take text."""
        slots = window.slots
        if slots is not self._seen:  # a window replaces its tuple with every change
            window.write_table(self.slot_table[0], self.slot_age[0])
            self._seen = slots
        if prompt is not self._prompt:
            self._prompt = prompt
            for binding in (*self._denoise, self._commit):
                self._bind_prompt(binding)

    def denoise(self, step: int) -> int:
        """Denoising step `step` (from 1): `latent`, at the level of this step -> `estimates`, `logits`.

        Raises `Interrupted` after `interrupt_denoise` and `interrupt`.
        """
        if self._cache.pools is not self._pools:
            self._bind_pools()
        return self._run("denoise", self._denoise[step - 1], self._options)

    def commit(self, window: Window, latent: np.ndarray, action: np.ndarray, prompt: Prompt | None = None) -> int:
        """Make a tick the newest of `window`, its keys and values written straight into a slot.

        `latent` (`float32[*latent]`) is the tick before decoding, `action` (`float32[action width]`) led to it.
        """
        self.clean[0], self.action[0] = latent, action
        self.look_at(window, prompt)
        slot = self._cache.allocate()
        try:
            with self._cache.writing():
                if self._cache.pools is not self._pools:
                    self._bind_pools()
                for index, pool in enumerate(self._pools):
                    bind_output(
                        self._commit, f"{'value' if index % 2 else 'key'}_{index // 2}", rows(pool, slot, slot + 1)
                    )
                for kept, source in zip(self._cache.sources, (latent, action), strict=False):
                    kept[slot] = source
                cost_ns = self._run("commit", self._commit)
        except BaseException:
            self._cache.release((slot,))
            raise
        window.push(slot)
        return cost_ns

    def prepare_pixels(self) -> None:
        """Allocate and bind what the next `decode` returns, which it else does itself."""
        self._decoder.prepare()

    def decode(self, latent: np.ndarray, stream: Stream = ()) -> tuple[np.ndarray, Stream, int]:
        """As `Decoder.run`. Raises `Interrupted` after `interrupt`."""
        return self._decoder.run(latent, stream)

    def interrupt_denoise(self) -> None:
        """From any thread: let a running `denoise` end at once (some 0.1 ms), and any that comes, until `resume`."""
        self._options.terminate = True

    def interrupt(self) -> None:
        """From any thread: as `interrupt_denoise`, and `decode` too. A commit is always finished."""
        self._options.terminate = self._decoder.options.terminate = True

    def resume(self) -> None:
        """Let runs run again."""
        self._options.terminate = self._decoder.options.terminate = False

    def _bind_pools(self) -> None:
        self._pools = self._cache.pools  # also keeps them alive while they are bound
        self._denoise = []
        for step in range(len(self._levels)):
            binding = self._bind_generator("denoise", self.latent, self._levels[step : step + 1])
            bind_output(binding, "clean", self.estimates[step : step + 1])
            bind_output(binding, "confidence_logit", self.logits[step : step + 1])
            self._denoise.append(binding)
        self._commit = self._bind_generator("commit", self.clean, self._context_level)

    def _bind_generator(self, graph: str, latent: np.ndarray, level: np.ndarray) -> ort.IOBinding:
        binding = self._graphs[graph].io_binding()
        named: dict[str, Array] = {
            "latent": latent, "level": level, "action": self.action,
            "slot_table": self.slot_table, "slot_age": self.slot_age,
        }  # fmt: skip
        for index, pool in enumerate(self._pools):
            named[f"{'value' if index % 2 else 'key'}_pool_{index // 2}"] = pool
        for name, array in named.items():
            bind_input(binding, name, array)
        self._bind_prompt(binding)
        return binding

    def _bind_prompt(self, binding: ort.IOBinding) -> None:
        if self._prompt is not None:
            bind_input(binding, "prompt", self._prompt.projected)

    def _run(self, graph: str, binding: ort.IOBinding, options: ort.RunOptions | None = None) -> int:
        return run_bound(graph, self._graphs[graph], binding, options)
