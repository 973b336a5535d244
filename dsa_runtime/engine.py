"""Engine: a world's graphs in ONNX Runtime, and the bound buffers one session runs them with."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import numpy as np

from .errors import EngineError, WorldError
from .form import FormChoice, choose_form
from .frame_cache import FrameCache, Window
from .ort import ort
from .package import Package
from .spec import WorldSpec

_DTYPES = {"tensor(float)": np.float32, "tensor(int32)": np.int32, "tensor(uint8)": np.uint8}
Shapes = dict[str, tuple[type, tuple[int | None, ...]]]


class Interrupted(Exception):
    """A run was stopped by `Workspace.interrupt`. What it wrote is to be ignored."""


class Engine:
    """The loaded graphs. Constant and thread-safe: any number of sessions run them at the same time."""

    def __init__(self, package: Package, threads: int | None = None, form: str | FormChoice = "auto") -> None:
        """Load the graphs, `threads` threads each (None: one per usable core), and check their shapes.

        `form` is that of `choose_form`, or what it has chosen.
        """
        self.spec = package.spec
        self.threads = threads or available_cores()
        self.choice = choose_form(self.spec, form) if isinstance(form, str) else form
        inputs, outputs = _graph_shapes(self.spec)
        self.graphs = {
            name: _load(package, name, self.choice, self.threads, inputs[name], outputs[name])
            for name in inputs
            if name != "write"
        }
        self._write: ort.InferenceSession | None = None
        if self.choice.form == "op" and "write_op" in self.spec.graphs:
            self._write = _load(package, "write", self.choice, 1, inputs["write"], outputs["write"])

    def encode(self, frames: np.ndarray) -> np.ndarray:
        """Latents `float32[B, C, h, w]` of pictures `uint8[B, H, W, 3]`."""
        try:
            latents: np.ndarray = self.graphs["encode"].run(["latent"], {"frame": frames})[0]
        except Exception as error:
            raise EngineError(f"encode: {error}") from error
        return latents

    def write(self, cache: FrameCache, slots: Sequence[int], frames: Sequence[np.ndarray]) -> None:
        """Fill slots that were just allocated, of any number of sessions, by one call.

        frames   `float32[len(slots), tokens, heads, head_dim]` per pool
        """
        if self._write is None or not len(slots):
            cache.write(slots, frames)
            return
        frames = [np.ascontiguousarray(frame, np.float32) for frame in frames]  # bound by address
        with cache.writing():
            binding, slot = self._write.io_binding(), np.asarray(slots, np.int32)
            bind_input(binding, "slot", slot)
            for index, (frame, pool) in enumerate(zip(frames, cache.pools, strict=True)):
                kind, layer = "value" if index % 2 else "key", index // 2
                bind_input(binding, f"{kind}_{layer}", frame)
                bind_input(binding, f"{kind}_pool_{layer}", pool)
                bind_output(binding, f"{kind}_pool_out_{layer}", pool)  # the same memory: written in place
            try:
                self._write.run_with_iobinding(binding)
            except Exception as error:
                raise EngineError(f"write: {error}") from error


class Workspace:
    """Buffers to run a session's graphs in, bound once, so that a tick copies and allocates next to nothing.

    The caller fills `latent` and `action`, chooses a window, runs, and reads `estimates` and `logits`, all in
    place. Runs return the nanoseconds spent inside ONNX Runtime. One thread at a time, but for the methods that
    interrupt.
    """

    def __init__(self, engine: Engine, cache: FrameCache) -> None:
        spec = engine.spec
        self._spec, self._graphs, self._cache = spec, engine.graphs, cache
        steps = spec.schedule.steps
        self.latent = np.zeros((1, *spec.latent.shape), np.float32)
        """`float32[1, C, h, w]`, the noisy latent that `denoise` reads."""
        self.action = np.zeros((1, spec.action_space.width), np.float32)
        self.slot_table = np.full((1, spec.cache.window), -1, np.int32)
        self.slot_age = np.ones((1, spec.cache.window), np.int32)
        self.estimates = np.zeros((steps, *spec.latent.shape), np.float32)
        """`float32[K, C, h, w]`, the clean estimate of every step: one that is interrupted spoils its own only."""
        self.logits = np.zeros(steps, np.float32)
        self.clean = np.zeros_like(self.latent)
        """`float32[1, C, h, w]`, the frame that `decode` and `commit` read."""
        self._levels = np.array(spec.schedule.levels, np.float32)
        self._context_level = np.full(1, spec.schedule.context_level, np.float32)
        self._seen: tuple[int, ...] | None = None
        self._pixels: np.ndarray | None = None
        self._denoise_options, self._decode_options = ort.RunOptions(), ort.RunOptions()
        self._decode = self._graphs["decode"].io_binding()
        bind_input(self._decode, "latent", self.clean)
        self._bind_pools()

    def look_at(self, window: Window) -> None:
        """Let the next runs attend to this window's frames."""
        slots = window.slots
        if slots is not self._seen:  # a window replaces its tuple with every change
            window.write_table(self.slot_table[0], self.slot_age[0])
            self._seen = slots

    def denoise(self, step: int) -> int:
        """Denoising step `step` (from 1): `latent`, at the level of this step -> `estimates`, `logits`.

        Raises `Interrupted` after `interrupt_denoise` and `interrupt`.
        """
        if self._cache.pools is not self._pools:
            self._bind_pools()
        return self._run("denoise", self._denoise[step - 1], self._denoise_options)

    def commit(self, window: Window, latent: np.ndarray, action: np.ndarray) -> int:
        """Make a frame the newest of `window`, its keys and values written straight into a slot.

        `latent` (`float32[C, h, w]`) is the frame before decoding, `action` (`float32[action width]`) led to it.
        """
        self.clean[0], self.action[0] = latent, action
        self.look_at(window)
        slot = self._cache.allocate()
        try:
            with self._cache.writing():
                if self._cache.pools is not self._pools:
                    self._bind_pools()
                for index, pool in enumerate(self._pools):
                    bind_output(self._commit, f"{'value' if index % 2 else 'key'}_{index // 2}", pool[slot : slot + 1])
                cost_ns = self._run("commit", self._commit)
        except BaseException:
            self._cache.release((slot,))
            raise
        window.push(slot)
        return cost_ns

    def prepare_pixels(self) -> None:
        """Allocate and bind what the next `decode` returns, which it else does itself."""
        if self._pixels is None:
            frame = self._spec.frame
            self._pixels = np.empty((frame.height, frame.width, frame.channels), np.uint8)
            bind_output(self._decode, "frame", self._pixels[np.newaxis])

    def decode(self, latent: np.ndarray) -> tuple[np.ndarray, int]:
        """The picture, `uint8[H, W, 3]`, fresh, of `latent` (`float32[C, h, w]`). Raises `Interrupted` after
        `interrupt`.
        """
        self.clean[0] = latent
        self.prepare_pixels()
        cost_ns = self._run("decode", self._decode, self._decode_options)
        pixels, self._pixels = self._pixels, None
        assert pixels is not None
        return pixels, cost_ns

    def interrupt_denoise(self) -> None:
        """From any thread: let a running `denoise` end at once (some 0.1 ms), and any that comes, until `resume`."""
        self._denoise_options.terminate = True

    def interrupt(self) -> None:
        """From any thread: as `interrupt_denoise`, and `decode` too. A commit is always finished."""
        self._denoise_options.terminate = self._decode_options.terminate = True

    def resume(self) -> None:
        """Let runs run again."""
        self._denoise_options.terminate = self._decode_options.terminate = False

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
        named = {
            "latent": latent, "level": level, "action": self.action,
            "slot_table": self.slot_table, "slot_age": self.slot_age,
        }  # fmt: skip
        for index, pool in enumerate(self._pools):
            named[f"{'value' if index % 2 else 'key'}_pool_{index // 2}"] = pool
        for name, array in named.items():
            bind_input(binding, name, array)
        return binding

    def _run(self, graph: str, binding: ort.IOBinding, options: ort.RunOptions | None = None) -> int:
        started = time.perf_counter_ns()
        try:
            self._graphs[graph].run_with_iobinding(binding, options)
        except Exception as error:
            if options is not None and options.terminate:
                raise Interrupted(graph) from None
            raise EngineError(f"{graph}: {error}") from error
        return time.perf_counter_ns() - started


def available_cores() -> int:
    """Cores this process may run on, which containers and `taskset` make fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _load(
    package: Package, name: str, choice: FormChoice, threads: int, inputs: Shapes, outputs: Shapes
) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors come as exceptions
    # Threads that spin between runs win little alone and cost a lot beside any other load.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    path = package.path(package.spec.graphs[choice.graph(name)])
    try:
        if choice.library is not None:
            options.register_custom_ops_library(choice.library.path)
        graph = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise WorldError(f"{path}: ONNX Runtime cannot load it: {error}") from None
    _check_signature(graph.get_inputs(), inputs, f"{path}: input")
    _check_signature(graph.get_outputs(), outputs, f"{path}: output")
    return graph


def _check_signature(actual: list[ort.NodeArg], expected: Shapes, where: str) -> None:
    names = {argument.name for argument in actual}
    for name in expected.keys() - names:
        raise WorldError(f"{where} {name}: missing")
    for name in names - expected.keys():
        raise WorldError(f"{where} {name}: unknown")
    for argument in actual:
        dtype, shape = expected[argument.name]
        if _DTYPES.get(argument.type) is not dtype:
            raise WorldError(f"{where} {argument.name}: expected {dtype.__name__}, got {argument.type}")
        # A named dimension in the graph is free; a number must be the spec's.
        fits = len(argument.shape) == len(shape) and all(
            not isinstance(found, int) or found == wanted for found, wanted in zip(argument.shape, shape, strict=True)
        )
        if not fits:
            raise WorldError(f"{where} {argument.name}: expected shape {list(shape)}, got {argument.shape}")


def _graph_shapes(spec: WorldSpec) -> tuple[dict[str, Shapes], dict[str, Shapes]]:
    """Inputs and outputs of every graph, as the spec says they must be. None is a free dimension."""
    floats, ints, pixels = np.float32, np.int32, np.uint8
    latent: Shapes = {"latent": (floats, (None, *spec.latent.shape))}
    frame: Shapes = {"frame": (pixels, (None, spec.frame.height, spec.frame.width, spec.frame.channels))}
    table = (ints, (None, spec.cache.window))
    generator: Shapes = {
        **latent, "level": (floats, (None,)), "action": (floats, (None, spec.action_space.width)),
        "slot_table": table, "slot_age": table,
    }  # fmt: skip
    pairs = [(kind, layer) for layer in range(spec.cache.layers) for kind in ("key", "value")]
    frames = (floats, (None, *spec.cache.slot_shape))
    slots: Shapes = {f"{kind}_{layer}": frames for kind, layer in pairs}
    pools: Shapes = {f"{kind}_pool_{layer}": frames for kind, layer in pairs}
    written: Shapes = {f"{kind}_pool_out_{layer}": frames for kind, layer in pairs}
    generator |= pools
    estimate: Shapes = {"clean": latent["latent"], "confidence_logit": (floats, (None,))}
    target: Shapes = {"slot": (ints, (None,))}
    inputs = {
        "denoise": generator, "commit": generator, "decode": latent, "encode": frame, "write": target | slots | pools,
    }  # fmt: skip
    outputs = {"denoise": estimate, "commit": slots, "decode": frame, "encode": latent, "write": written}
    return inputs, outputs


def bind_input(binding: ort.IOBinding, name: str, array: np.ndarray) -> None:
    binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def bind_output(binding: ort.IOBinding, name: str, array: np.ndarray) -> None:
    binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
