"""Batch: buffers in which the graphs run for several sessions at once, a row each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from .bindings import bind_input, bind_output, run_bound
from .device_array import Array
from .engine import Engine
from .frame_cache import FrameCache, Window
from .ort import ort


class Batch:
    """Buffers for up to `rows` sessions, and bindings for every number of them, made when first used.

    The caller fills the first n rows, in place, and runs them. A row's result does not depend on the other rows, nor,
    but for the last bits of `logits`, on how many there are. Runs return the nanoseconds spent inside ONNX Runtime and
    raise `EngineError` for all rows when one is wrong. One thread at a time.
    """

    def __init__(self, engine: Engine, cache: FrameCache, rows: int) -> None:
        spec = engine.spec
        self.rows = rows
        self._spec, self._engine, self._cache = spec, engine, cache
        self.latent = np.zeros((rows, *spec.latent.shape), np.float32)
        """`float32[rows, *latent]`: what `denoise` reads, noisy, and what `commit` and `decode` do, clean."""
        self.level = np.zeros(rows, np.float32)
        """Noise levels: rows may be at different denoising steps."""
        self.action = np.zeros((rows, spec.action_space.width), np.float32)
        self.slot_table = np.full((rows, spec.cache.window), -1, np.int32)
        self.slot_age = np.ones((rows, spec.cache.window), np.int32)
        self.clean = np.zeros_like(self.latent)
        """`float32[rows, *latent]`: the estimates that `denoise` makes."""
        self.logits = np.zeros(rows, np.float32)
        dtype = engine.choice.cache_dtype
        self._frames = [
            np.zeros((rows, *spec.cache.slot_shape), dtype) for _ in range(2 * spec.cache.layers)
        ]  # keys and values that `commit` makes
        self._pools: tuple[Array, ...] = ()
        self._bound: dict[tuple[str, int], ort.IOBinding] = {}

    def look_at(self, row: int, window: Window) -> None:
        """Let a row's next run attend to this window's frames."""
        window.write_table(self.slot_table[row], self.slot_age[row])

    def denoise(self, n: int) -> int:
        """One denoising step of the first n rows, each at its own level: `latent` -> `clean`, `logits`."""
        return self._run("denoise", n, self._bind_denoise)

    def commit(self, n: int, windows: Sequence[Window]) -> int:
        """Make the frames in the first n rows (`latent`, clean, and `action`) the newest of n windows."""
        self.level[:n] = self._spec.schedule.context_level
        cost_ns = self._run("commit", n, self._bind_commit)
        slots = [self._cache.allocate() for _ in windows]
        try:
            started_ns = time.perf_counter_ns()
            self._engine.write(self._cache, slots, [frames[:n] for frames in self._frames])
            cost_ns += time.perf_counter_ns() - started_ns
        except BaseException:
            self._cache.release(tuple(slots))
            raise
        for window, slot in zip(windows, slots, strict=True):
            window.push(slot)
        return cost_ns

    def decode(self, n: int) -> tuple[list[np.ndarray], int]:
        """The pictures, for each of the first n rows of `latent` a fresh `uint8[F, H, W, 3]`."""
        frames = np.empty((n, *self._spec.frame.tick_shape), np.uint8)
        binding = self._binding("decode", n, self._bind_decode)
        bind_output(binding, "frame", frames[:, 0] if self._spec.frame.frames_per_tick == 1 else frames)
        cost_ns = self._run_bound("decode", binding)
        return [pictures.copy() for pictures in frames] if n > 1 else [frames[0]], cost_ns

    def _bind_denoise(self, binding: ort.IOBinding, n: int) -> None:
        self._bind_generator(binding, n)
        bind_output(binding, "clean", self.clean[:n])
        bind_output(binding, "confidence_logit", self.logits[:n])

    def _bind_commit(self, binding: ort.IOBinding, n: int) -> None:
        self._bind_generator(binding, n)
        for index, frames in enumerate(self._frames):
            bind_output(binding, f"{'value' if index % 2 else 'key'}_{index // 2}", frames[:n])

    def _bind_decode(self, binding: ort.IOBinding, n: int) -> None:
        bind_input(binding, "latent", self.latent[:n])

    def _bind_generator(self, binding: ort.IOBinding, n: int) -> None:
        named = {
            "latent": self.latent, "level": self.level, "action": self.action,
            "slot_table": self.slot_table, "slot_age": self.slot_age,
        }  # fmt: skip
        for name, array in named.items():
            bind_input(binding, name, array[:n])
        for index, pool in enumerate(self._pools):
            bind_input(binding, f"{'value' if index % 2 else 'key'}_pool_{index // 2}", pool)

    def _binding(self, graph: str, n: int, bind: Callable[[ort.IOBinding, int], None]) -> ort.IOBinding:
        if self._cache.pools is not self._pools:
            self._pools = self._cache.pools  # also keeps them alive while they are bound
            self._bound.clear()
        binding = self._bound.get((graph, n))
        if binding is None:
            binding = self._bound[graph, n] = self._engine.graphs[graph].io_binding()
            bind(binding, n)
        return binding

    def _run(self, graph: str, n: int, bind: Callable[[ort.IOBinding, int], None]) -> int:
        return self._run_bound(graph, self._binding(graph, n, bind))

    def _run_bound(self, graph: str, binding: ort.IOBinding) -> int:
        return run_bound(graph, self._engine.graphs[graph], binding)
