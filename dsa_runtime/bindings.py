"""Bindings: graphs of ONNX Runtime on buffers that stay where they are, and how they are run."""

from __future__ import annotations

import time

import numpy as np

from .errors import EngineError
from .ort import ort


class Interrupted(Exception):
    """A run was stopped by `Workspace.interrupt`. What it wrote is to be ignored."""


def bind_input(binding: ort.IOBinding, name: str, array: np.ndarray) -> None:
    """Let the graph read this array, which the caller keeps alive."""
    binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def bind_output(binding: ort.IOBinding, name: str, array: np.ndarray) -> None:
    """Let the graph write to this array, which the caller keeps alive."""
    binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


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
