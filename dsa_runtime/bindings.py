"""Bindings: graphs of ONNX Runtime on buffers that stay where they are, and how they are run."""

from __future__ import annotations

import time

import numpy as np

from .device_array import Array
from .errors import EngineError
from .ort import ort


class Interrupted(Exception):
    """A run was stopped by `Workspace.interrupt`. What it wrote is to be ignored."""


def bind_input(binding: ort.IOBinding, name: str, array: Array) -> None:
    """Let the graph read this array, which the caller keeps alive."""
    kind, index, address = _place(array)
    binding.bind_input(name, kind, index, array.dtype.type, array.shape, address)


def bind_output(binding: ort.IOBinding, name: str, array: Array) -> None:
    """Let the graph write to this array, which the caller keeps alive."""
    kind, index, address = _place(array)
    binding.bind_output(name, kind, index, array.dtype.type, array.shape, address)


def _place(array: Array) -> tuple[str, int, int]:
    return ("cpu", 0, array.ctypes.data) if isinstance(array, np.ndarray) else array.place()


def run_bound(
    name: str, graph: ort.InferenceSession, binding: ort.IOBinding, options: ort.RunOptions | None = None
) -> int:
    """Run the graph; returns the nanoseconds spent inside ONNX Runtime.

    Raises `EngineError`, which names the graph, or `Interrupted` where `options` were told to terminate.
    """
    started_ns = time.perf_counter_ns()
    try:
        graph.run_with_iobinding(binding, options)
    except Exception as error:
        if options is not None and options.terminate:
            raise Interrupted(name) from None
        raise EngineError(f"{name}: {error}") from error
    return time.perf_counter_ns() - started_ns
