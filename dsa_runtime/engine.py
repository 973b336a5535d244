"""Engine: a world's graphs in ONNX Runtime, and the bound buffers one session runs them with."""

from __future__ import annotations

import os
import time

# The official wheels of ONNX Runtime report to their maker unless told otherwise before they are loaded.
# Whoever wants that can set the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime as ort

from .errors import EngineError, WorldError
from .frame_cache import FrameCache, Window
from .package import Package
from .spec import WorldSpec

_DTYPES = {"tensor(float)": np.float32, "tensor(int32)": np.int32, "tensor(uint8)": np.uint8}
Shapes = dict[str, tuple[type, tuple[int | None, ...]]]


class Engine:
    """The four loaded graphs. Constant and thread-safe: any number of sessions run them at the same time."""

    def __init__(self, package: Package, threads: int | None = None) -> None:
        """Load the graphs, `threads` threads each (None: one per usable core), and check their shapes."""
        self.spec = package.spec
        self.threads = threads or available_cores()
        inputs, outputs = _graph_shapes(self.spec)
        self.graphs = {
            name: _load(package, self.spec.graphs[name], self.threads, inputs[name], outputs[name]) for name in inputs
        }

    def encode(self, frames: np.ndarray) -> np.ndarray:
        """Latents `float32[B, C, h, w]` of pictures `uint8[B, H, W, 3]`."""
        try:
            latents: np.ndarray = self.graphs["encode"].run(["latent"], {"frame": frames})[0]
        except Exception as error:
            raise EngineError(f"encode: {error}") from error
        return latents


class Workspace:
    """Buffers of one session, bound once to the graphs, so that a tick copies and allocates nothing.

    The caller fills `latent`, `action`, `level`, `slot_table` and `slot_age`, runs, and reads `clean` and
    `logit`, all in place. Runs return the nanoseconds spent inside ONNX Runtime. One thread at a time.
    """

    def __init__(self, engine: Engine, cache: FrameCache) -> None:
        spec = engine.spec
        self._spec, self._graphs, self._cache = spec, engine.graphs, cache
        self.latent = np.zeros((1, *spec.latent.shape), np.float32)
        """`float32[1, C, h, w]`, the noisy latent that `denoise` reads."""
        self.level = np.zeros(1, np.float32)
        self.action = np.zeros((1, spec.action_space.width), np.float32)
        self.slot_table = np.full((1, spec.cache.window), -1, np.int32)
        self.slot_age = np.ones((1, spec.cache.window), np.int32)
        self.clean = np.zeros_like(self.latent)
        """`float32[1, C, h, w]`, the clean estimate that `denoise` writes and `decode` and `commit` read."""
        self.logit = np.zeros(1, np.float32)
        self._context_level = np.full(1, spec.schedule.context_level, np.float32)
        self._decode = self._graphs["decode"].io_binding()
        _bind_input(self._decode, "latent", self.clean)
        self._bind_pools()

    def look_at(self, window: Window) -> None:
        """Let the next runs attend to this window's frames."""
        window.write_table(self.slot_table[0], self.slot_age[0])

    def denoise(self) -> int:
        """One denoising step: `latent` at `level` -> `clean`, `logit`."""
        if self._cache.pools is not self._pools:
            self._bind_pools()
        return self._run("denoise", self._denoise)

    def commit(self, window: Window) -> int:
        """Make `clean` the newest frame of `window`, its keys and values written straight into a slot."""
        slot = self._cache.allocate()
        try:
            with self._cache.writing():
                if self._cache.pools is not self._pools:
                    self._bind_pools()
                for index, pool in enumerate(self._pools):
                    _bind_output(self._commit, f"{'value' if index % 2 else 'key'}_{index // 2}", pool[slot : slot + 1])
                cost_ns = self._run("commit", self._commit)
        except BaseException:
            self._cache.release((slot,))
            raise
        window.push(slot)
        return cost_ns

    def decode(self, pixels: np.ndarray) -> int:
        """Write the picture of `clean` into `pixels`, `uint8[H, W, 3]`, C-contiguous."""
        _bind_output(self._decode, "frame", pixels[np.newaxis])
        return self._run("decode", self._decode)

    def _bind_pools(self) -> None:
        self._pools = self._cache.pools  # also keeps them alive while they are bound
        self._denoise = self._bind_generator("denoise", self.latent, self.level)
        _bind_output(self._denoise, "clean", self.clean)
        _bind_output(self._denoise, "confidence_logit", self.logit)
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
            _bind_input(binding, name, array)
        return binding

    def _run(self, graph: str, binding: ort.IOBinding) -> int:
        started = time.perf_counter_ns()
        try:
            self._graphs[graph].run_with_iobinding(binding)
        except Exception as error:
            raise EngineError(f"{graph}: {error}") from error
        return time.perf_counter_ns() - started


def available_cores() -> int:
    """Cores this process may run on, which containers and `taskset` make fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _load(package: Package, file: str, threads: int, inputs: Shapes, outputs: Shapes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors come as exceptions
    # Threads that spin between runs win little alone and cost a lot beside any other load.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    path = package.path(file)
    try:
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
    slots: Shapes = {}
    for layer in range(spec.cache.layers):
        for kind in ("key", "value"):
            generator[f"{kind}_pool_{layer}"] = slots[f"{kind}_{layer}"] = (
                floats,
                (None, *spec.cache.slot_shape),
            )
    estimate: Shapes = {"clean": latent["latent"], "confidence_logit": (floats, (None,))}
    inputs = {"denoise": generator, "commit": generator, "decode": latent, "encode": frame}
    outputs = {"denoise": estimate, "commit": slots, "decode": frame, "encode": latent}
    return inputs, outputs


def _bind_input(binding: ort.IOBinding, name: str, array: np.ndarray) -> None:
    binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def _bind_output(binding: ort.IOBinding, name: str, array: np.ndarray) -> None:
    binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
