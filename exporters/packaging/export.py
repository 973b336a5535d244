"""Export: a `Graph` traced by torch, translated to ONNX, cleaned, its weights moved to the shared file."""

from __future__ import annotations

import inspect
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes import common

from exporters.packaging import translate
from exporters.packaging.graphs import Graph
from exporters.packaging.weights_file import WeightsFile

OPSET = 20
"""The built-in `Attention` of opset 23 is not faster here (a denoising step within 2 %), and 20 runs in more places."""
IR_VERSION = 10
INLINE_BYTES = 1024
"""Tensors below this size stay in the graph's own file."""


def export_graph(graph: Graph, weights: WeightsFile) -> bytes:
    """The graph as a serialised ONNX model whose large tensors are added to `weights`."""
    model = _trace(graph)
    _clean(model)
    _move_tensors(model.graph, weights)
    model.ir_version = IR_VERSION
    content: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return content


def _trace(graph: Graph) -> ir.Model:
    with _quiet():
        program = torch.onnx.export(
            graph.module,
            tuple(graph.inputs.values()),
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            opset_version=OPSET,
            dynamic_shapes=_free_axes(graph),
            custom_translation_table=translate.translation_table(),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program.model


def _free_axes(graph: Graph) -> tuple[Any, ...]:
    """`dynamic_shapes` of `torch.export`, in which inputs that forward takes as *arguments are one tuple."""
    axes = {name: torch.export.Dim(name) for name in sorted(set(graph.free.values()))}
    shapes = [{0: axes[graph.free[name]]} for name in graph.inputs]
    kinds = [parameter.kind for parameter in inspect.signature(graph.module.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return tuple(shapes)
    named = len(kinds) - 1
    return (*shapes[:named], tuple(shapes[named:]))


def _clean(model: ir.Model) -> None:
    """Merge what is computed twice and drop what is not needed, stack traces of the exporting machine included."""
    ir.passes.Sequential(
        common.CommonSubexpressionEliminationPass(),
        common.IdentityEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass(),
        common.ClearMetadataAndDocStringPass(),
    )(model)


def _move_tensors(graph: ir.Graph, weights: WeightsFile) -> None:
    """Large tensors go to the shared file: float32 as float16 behind a Cast where that is exact, else as they are.

    The weights were rounded before (see `rounding`), so storing them as float16 loses nothing; tables that were
    folded from the rotary positions were not, and stay float32. ONNX Runtime folds the Cast when it loads the graph.
    """
    first = graph[0]
    for name, value in list(graph.initializers.items()):
        assert value.const_value is not None
        array = value.const_value.numpy()
        if array.nbytes < INLINE_BYTES or array.dtype not in (np.float32, np.float16):
            continue
        if array.dtype == np.float16:
            value.const_value = _external(name, array, weights)
            continue
        halves = array.astype(np.float16)
        if not np.array_equal(halves.astype(np.float32), array):
            value.const_value = _external(name, array, weights)
            continue
        stored = ir.Value(
            name=f"{name}.half", type=ir.TensorType(ir.DataType.FLOAT16), shape=ir.Shape(array.shape),
            const_value=_external(f"{name}.half", halves, weights),
        )  # fmt: skip
        widen = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT})
        widened = widen.outputs[0]
        widened.type, widened.shape = value.type, value.shape
        del graph.initializers[name]
        ir.convenience.replace_all_uses_with(value, widened)
        widened.name = name
        graph.initializers[f"{name}.half"] = stored
        graph.insert_before(first, widen)


def _external(name: str, array: np.ndarray, weights: WeightsFile) -> ir.ExternalTensor:
    content = np.ascontiguousarray(array).tobytes()
    return ir.ExternalTensor(
        weights.name,
        weights.add(content),
        len(content),
        ir.DataType.from_numpy(array.dtype),
        shape=ir.Shape(array.shape),
        name=name,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's remarks about itself (missing torchvision, renamed axes)."""
    registry = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registry.level
    registry.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        registry.setLevel(level)
