"""Engine: a world's graphs in ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from .bindings import bind_input, bind_output
from .device import CPU, Device
from .device_array import Array
from .errors import EngineError, WorldError
from .form import FormChoice, choose_form
from .frame_cache import FrameCache
from .ort import ort
from .package import Package
from .spec import WorldSpec

_DTYPES = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int32)": np.int32, "tensor(uint8)": np.uint8,
}  # fmt: skip
Shapes = dict[str, tuple[type, tuple[int | None, ...]]]


class Engine:
    """The loaded graphs. Constant and thread-safe: any number of sessions run them at the same time."""

    def __init__(
        self,
        package: Package,
        threads: int | None = None,
        form: str | FormChoice = "auto",
        device: Device = CPU,
    ) -> None:
        """Load the graphs, `threads` threads each (None: one per usable core), and check their shapes.

        `form` is that of `choose_form`, or what it has chosen.
        """
        self.spec, self.device = package.spec, device
        self.threads = threads or available_cores()
        self.choice = choose_form(self.spec, form, device) if isinstance(form, str) else form
        inputs, outputs = _graph_shapes(self.spec, self.choice.cache_dtype)
        self.graphs = {
            name: _load(package, name, self.choice, self.threads, inputs[name], outputs[name], device)
            for name in inputs
            if name != "write" and name in self.spec.graphs
        }
        self._write: ort.InferenceSession | None = None
        if self.choice.graph("write") in self.spec.graphs:
            self._write = _load(package, "write", self.choice, 1, inputs["write"], outputs["write"], device)

    def encode(self, frames: np.ndarray) -> np.ndarray:
        """Latents `float32[B, *latent]` of B ticks' pictures, `uint8[B, H, W, 3]` or `uint8[B, F, H, W, 3]`."""
        return self._run_unbound("encode", "latent", {"frame": frames})

    def condition(self, text: np.ndarray) -> Array:
        """What the generator takes of a text, on the device.

        `float32[tokens, width]` -> `float32[1, 2 * layers, tokens, heads, head_dim]`
        """
        return self.device.put(self._run_unbound("condition", "prompt", {"text": text[np.newaxis]}))

    def write(self, cache: FrameCache, slots: Sequence[int], frames: Sequence[np.ndarray]) -> None:
        """Fill slots that were just allocated, of any number of sessions, by one call.

        frames   `float32[len(slots), tokens, heads, head_dim]` per pool
        """
        if not len(slots):
            return
        if self._write is None:
            cache.write(slots, frames)
            return
        frames = [np.ascontiguousarray(frame, self.choice.cache_dtype) for frame in frames]  # bound by address
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

    def _run_unbound(self, graph: str, output: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
        try:
            result: np.ndarray = self.graphs[graph].run([output], inputs)[0]
        except Exception as error:
            raise EngineError(f"{graph}: {error}") from error
        return result


def available_cores() -> int:
    """Cores this process may run on, which containers and `taskset` make fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _load(
    package: Package, name: str, choice: FormChoice, threads: int, inputs: Shapes, outputs: Shapes, device: Device
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
        graph = ort.InferenceSession(str(path), options, providers=device.providers)
    except Exception as error:
        raise WorldError(f"{path}: ONNX Runtime cannot load it: {error}") from None
    device.check(graph, str(path))
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


def _graph_shapes(spec: WorldSpec, cache_dtype: type) -> tuple[dict[str, Shapes], dict[str, Shapes]]:
    """Inputs and outputs of every graph, as the spec says they must be. None is a free dimension."""
    floats, ints, pixels = np.float32, np.int32, np.uint8
    latent: Shapes = {"latent": (floats, (None, *spec.latent.shape))}
    picture = spec.frame.shape if spec.frame.frames_per_tick == 1 else spec.frame.tick_shape
    frame: Shapes = {"frame": (pixels, (None, *picture))}
    table = (ints, (None, spec.cache.window))
    generator: Shapes = {
        **latent, "level": (floats, (None,)), "action": (floats, (None, spec.action_space.width)),
        "slot_table": table, "slot_age": table,
    }  # fmt: skip
    prompt: Shapes = {"prompt": (floats, (None, *spec.prompt_shape))}
    if spec.text.width:
        generator |= prompt
    pairs = [(kind, layer) for layer in range(spec.cache.layers) for kind in ("key", "value")]
    frames = (cache_dtype, (None, *spec.cache.slot_shape))
    slots: Shapes = {f"{kind}_{layer}": frames for kind, layer in pairs}
    pools: Shapes = {f"{kind}_pool_{layer}": frames for kind, layer in pairs}
    written: Shapes = {f"{kind}_pool_out_{layer}": frames for kind, layer in pairs}
    generator |= pools
    estimate: Shapes = {"clean": latent["latent"], "confidence_logit": (floats, (None,))}
    target: Shapes = {"slot": (ints, (None,))}
    text: Shapes = {"text": (floats, (None, spec.text.tokens, spec.text.width))}
    state: Shapes = {f"state_{i}": (floats, (None, *shape)) for i, shape in enumerate(spec.decoder.state)}
    state_out: Shapes = {name.replace("_", "_out_"): shape for name, shape in state.items()}
    inputs = {
        "denoise": generator, "commit": generator, "decode_first": latent, "decode": latent | state, "encode": frame,
        "condition": text, "write": target | slots | pools,
    }  # fmt: skip
    outputs = {
        "denoise": estimate, "commit": slots, "decode_first": frame | state_out, "decode": frame | state_out,
        "encode": latent, "condition": prompt, "write": written,
    }  # fmt: skip
    return inputs, outputs
