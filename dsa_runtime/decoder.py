"""Decoder: a world's decode graphs with the buffers of one workspace."""

from __future__ import annotations

import numpy as np

from .bindings import bind_input, bind_output, run_bound
from .device_array import Array
from .engine import Engine
from .ort import ort

Stream = tuple[Array, ...]
"""What a streaming decoder remembers between two ticks, `float32[1, *shape]` for each of `DecoderSpec.state`, on the
device. Never written to, so that forks, snapshots and the history may share it. Empty where a stream begins, and for
decoders without memory."""


class Decoder:
    """Latents to pictures. One thread at a time, but for `options`."""

    def __init__(self, engine: Engine) -> None:
        spec, self._device = engine.spec, engine.device
        self.options = ort.RunOptions()
        """`terminate` lets a run end early."""
        self._shape, self._state = spec.frame.tick_shape, spec.decoder.state
        self._batch = (1, *(self._shape if spec.frame.frames_per_tick > 1 else self._shape[1:]))
        self._latent = np.zeros((1, *spec.latent.shape), np.float32)
        self._frames: np.ndarray | None = None
        self._after: Stream = ()
        self._graphs = {name: graph for name, graph in engine.graphs.items() if name in ("decode", "decode_first")}
        self._bindings = {name: graph.io_binding() for name, graph in self._graphs.items()}
        for binding in self._bindings.values():
            bind_input(binding, "latent", self._latent)

    def prepare(self) -> None:
        """Allocate and bind what the next `run` returns, which it else does itself."""
        if self._frames is not None:
            return
        self._frames = np.empty(self._shape, np.uint8)
        self._after = tuple(self._device.empty((1, *shape)) for shape in self._state)
        for binding in self._bindings.values():
            bind_output(binding, "frame", self._frames.reshape(self._batch))
            for index, array in enumerate(self._after):
                bind_output(binding, f"state_out_{index}", array)

    def run(self, latent: np.ndarray, stream: Stream) -> tuple[np.ndarray, Stream, int]:
        """The pictures of a tick, `uint8[F, H, W, 3]`, fresh, and the stream after it; and the nanoseconds it took.

        `latent` is `float32[*latent]`. Raises `Interrupted` and `EngineError`.
        """
        self._latent[0] = latent
        self.prepare()
        graph = "decode_first" if self._state and not stream else "decode"
        binding = self._bindings[graph]
        for index, array in enumerate(stream):
            bind_input(binding, f"state_{index}", array)
        cost_ns = run_bound(graph, self._graphs[graph], binding, self.options)
        frames, after = self._frames, self._after
        self._frames, self._after = None, ()
        assert frames is not None
        return frames, after, cost_ns
