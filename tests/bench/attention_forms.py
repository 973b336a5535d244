"""Frame attention in three forms, as one call and inside a whole denoising step, exported and bound for timing.

- `op`: one `dsa.PagedFrameAttention` node; the library of `dsa_runtime.ops` runs it.
- `gather`: standard operators, as a package's plain graphs have them: gather the slots, then attend.
- `ring`: ONNX Runtime at its best, without pages. One contiguous ring per layer holds the context and, in one slot
  more, this frame: `TensorScatter` writes the frame's keys and values there in place (input and output are the same
  memory), `Attention` of opset 24 reads the ring. The ring is bound at exactly the length that is filled, so nothing
  is masked, sliced or copied. It has no rotary position in time at all, which favours it, and cannot be shared by forks
  or stacked into a batch of sessions of different age.

Only the attention differs between the forms of one shape: `gather` and `op` are the package's two exports, and `ring`
is `op` with its nodes replaced. Weights are random: the speed of dense float32 arithmetic does not depend on them.

T tokens of a frame, H heads, D head width, C = H D, W window, S pool slots, F frames in the ring.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from dsa_runtime.form import Form as PackageForm
from dsa_runtime.ops import library
from dsa_runtime.ops.schema import DOMAIN, PAGED_FRAME_ATTENTION
from dsa_runtime.ort import ort
from exporters.model import attention
from exporters.model.generator import Generator, GeneratorConfig
from exporters.packaging import translate
from exporters.packaging.export import IR_VERSION, export_graph
from exporters.packaging.graphs import Graph, generator_graphs
from exporters.packaging.lean import lean_generator
from exporters.packaging.weights_file import WeightsFile

Form = Literal["op", "gather", "ring"]
Subject = Literal["attention", "step"]

RING_OPSET = 24
"""The first with `TensorScatter`."""


@dataclass(frozen=True)
class Shape:
    """A world's shape, as far as the cost of a denoising step depends on it."""

    name: str
    config: GeneratorConfig

    @property
    def pool_slots(self) -> int:
        """More than the window, so that a table can point anywhere."""
        return self.config.window + 3


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("S", GeneratorConfig(dim=192, depth=6, heads=6, latent_height=8, latent_width=8, patch=1)),
        Shape("M", GeneratorConfig(dim=384, depth=8, heads=6, latent_height=16, latent_width=16, patch=1)),
        Shape("world", GeneratorConfig(dim=256, depth=5, heads=4, latent_height=8, latent_width=8, patch=2)),
    )
}
"""`world` is the bundled world's shape."""


class AttentionCall(nn.Module):
    """One attention, in the form of a package's plain or op graphs."""

    def __init__(self, config: GeneratorConfig, form: PackageForm) -> None:
        super().__init__()
        self.config = config
        self.paged = attention.paged_attention if form == "plain" else translate.paged_frame_attention

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, slot_table: Tensor, slot_age: Tensor,
        key_pool: Tensor, value_pool: Tensor,
    ) -> Tensor:  # fmt: skip
        """query, key, value [B, T, H, D]; tables int32[B, W]; pools [S, T, H, D] -> [B, T, H, D]."""
        c = self.config
        return self.paged(query, key, value, key_pool, value_pool, slot_table, slot_age, c.temporal_dims, c.theta)


def attention_graph(shape: Shape, form: PackageForm) -> Graph:
    """One call, with the input names of a package's graphs where they mean the same."""
    c = shape.config
    frame = (c.tokens, c.heads, c.head_dim)
    # No two inputs may be one tensor, or tracing would take them for one input.
    inputs = {
        **{name: torch.zeros(2, *frame) for name in ("query", "key", "value")},
        "slot_table": torch.zeros(2, c.window, dtype=torch.int32),
        "slot_age": torch.ones(2, c.window, dtype=torch.int32),
        **{name: torch.zeros(shape.pool_slots, *frame) for name in ("key_pool_0", "value_pool_0")},
    }
    free = {name: "S" if "pool" in name else "B" for name in inputs}
    return Graph("attention", AttentionCall(c, form), inputs, free, ("output",))


def export_forms(shape: Shape, subject: Subject, folder: Path) -> dict[Form, Path]:
    """Write the models of all forms into `folder`, which must exist."""
    torch.manual_seed(0)
    generator = Generator(shape.config)
    with torch.no_grad():
        for parameter in generator.parameters():  # away from the zeros it begins with, which would hide a difference
            parameter.add_(torch.randn_like(parameter) * 0.02)
    generator = lean_generator(generator)
    weights = WeightsFile(f"{subject}.bin")
    models: dict[Form, onnx.ModelProto] = {}
    exported: tuple[tuple[Form, PackageForm], ...] = (("op", "op"), ("gather", "plain"))
    for form, name in exported:
        graph = attention_graph(shape, name) if subject == "attention" else generator_graphs(generator, name)[0]
        models[form] = onnx.load_from_string(export_graph(graph, weights))
    models["ring"] = ring_model(models["op"], shape.config)
    weights.write(folder)
    paths = {form: folder / f"{subject}.{form}.onnx" for form in models}
    for form, model in models.items():
        paths[form].write_bytes(model.SerializeToString())
    return paths


def ring_model(op_model: onnx.ModelProto, config: GeneratorConfig) -> onnx.ModelProto:
    """`op_model` with every `PagedFrameAttention` replaced by attention over an in-place ring.

    Inputs `key_ring_i`, `value_ring_i` float32[B, F T, C] instead of the pools, and `ring_index` int64[B], the token
    at which this frame's are written, instead of the tables; outputs `key_ring_out_i`, `value_ring_out_i`, the rings
    with this frame. Keys and values stay token by token, so that nothing needs a transposition.
    """
    model = onnx.ModelProto()
    model.CopyFrom(op_model)
    graph = model.graph
    width = config.heads * config.head_dim
    nodes, layer = [], 0
    for node in graph.node:
        if node.op_type != PAGED_FRAME_ATTENTION.name:
            nodes.append(node)
            continue
        nodes += _ring_nodes(node, layer, config.heads)
        layer += 1
    del graph.node[:]
    graph.node.extend(nodes)

    kept = [value for value in graph.input if not value.name.startswith(("key_pool_", "value_pool_", "slot_"))]
    del graph.input[:]
    rings = [f"{kind}_ring{{}}_{i}" for i in range(layer) for kind in ("key", "value")]
    float32, int64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    graph.input.extend(
        [
            *kept,
            helper.make_tensor_value_info("ring_index", int64, ["B"]),
            *(helper.make_tensor_value_info(ring.format(""), float32, ["B", "R", width]) for ring in rings),
        ]
    )
    graph.output.extend(
        helper.make_tensor_value_info(ring.format("_out"), float32, ["B", "R", width]) for ring in rings
    )
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array([0, 0, width], np.int64), "joined_heads"),
            numpy_helper.from_array(np.array([0, 0, config.heads, config.head_dim], np.int64), "split_heads"),
        ]
    )
    opsets = [opset for opset in model.opset_import if opset.domain not in ("", DOMAIN)]
    del model.opset_import[:]
    model.opset_import.extend([*opsets, helper.make_opsetid("", RING_OPSET)])
    return model


def _ring_nodes(node: onnx.NodeProto, layer: int, heads: int) -> list[onnx.NodeProto]:
    """What replaces one `PagedFrameAttention`. The reshapes do not copy."""
    prefix = f"ring_{layer}_"
    joined = [prefix + kind for kind in ("query", "key", "value")]
    rings = [f"{kind}_ring_out_{layer}" for kind in ("key", "value")]
    nodes = [
        *(
            helper.make_node("Reshape", [source, "joined_heads"], [target])
            for source, target in zip(node.input, joined, strict=False)
        ),
        *(
            helper.make_node(
                "TensorScatter", [ring.replace("_out", ""), frame, "ring_index"], [ring], axis=1, mode="circular"
            )
            for frame, ring in zip(joined[1:], rings, strict=True)
        ),
        helper.make_node("Attention", [joined[0], *rings], [prefix + "seen"], q_num_heads=heads, kv_num_heads=heads),
        helper.make_node("Reshape", [prefix + "seen", "split_heads"], [node.output[0]]),
    ]
    for each in nodes:
        each.name = f"node_{each.output[0]}"
    return nodes


def without_time(op_model: Path) -> Path:
    """A copy, beside `op_model`, whose attention has no rotary position in time: what the ring computes."""
    model = onnx.load(op_model, load_external_data=False)
    for node in model.graph.node:
        if node.op_type == PAGED_FRAME_ATTENTION.name:
            (dims,) = (attribute for attribute in node.attribute if attribute.name == "temporal_dims")
            dims.i = 0
    path = op_model.with_suffix(".timeless.onnx")
    path.write_bytes(model.SerializeToString())
    return path


def paged_feeds(shape: Shape, subject: Subject, filled: int) -> dict[str, np.ndarray]:
    """Inputs of `op` and `gather` with `filled` frames of context in slots in no order; batch 1."""
    c = shape.config
    rng = np.random.default_rng(0)

    def normal(*size: int) -> np.ndarray:
        return rng.standard_normal(size, np.float32)

    frame = (c.tokens, c.heads, c.head_dim)
    feeds = {
        "slot_table": np.full((1, c.window), -1, np.int32),
        "slot_age": np.ones((1, c.window), np.int32),
        **{
            f"{kind}_pool_{i}": normal(shape.pool_slots, *frame)
            for i in range(1 if subject == "attention" else c.depth)
            for kind in ("key", "value")
        },
    }
    feeds["slot_table"][0, :filled] = rng.permutation(shape.pool_slots)[:filled]
    feeds["slot_age"][0, :filled] = np.arange(filled, 0, -1)
    if subject == "attention":
        return feeds | {name: normal(1, *frame) for name in ("query", "key", "value")}
    return feeds | {
        "latent": normal(1, c.latent_channels, c.latent_height, c.latent_width),
        "level": np.full(1, 0.75, np.float32),
        "action": normal(1, c.action_width),
    }


def ring_feeds(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same context as `paged_feeds` gave, for `ring`: the filled slots in a row, then room for this frame."""
    (table,) = feeds["slot_table"]
    slots = table[table >= 0]
    kept = {name: array for name, array in feeds.items() if "pool" not in name and "slot" not in name}
    pools = {name: array for name, array in feeds.items() if "pool" in name}
    tokens = next(iter(pools.values())).shape[1]
    for name, pool in pools.items():
        ring = np.concatenate([pool[slots], np.zeros_like(pool[:1])])
        kept[name.replace("pool", "ring")] = ring.reshape(1, len(ring) * tokens, -1)
    return kept | {"ring_index": np.array([len(slots) * tokens], np.int64)}


class Call:
    """A model with everything bound once, as the engine binds it. Call it to run it."""

    def __init__(self, model: Path | bytes, feeds: Mapping[str, np.ndarray], options: ort.SessionOptions) -> None:
        source = model if isinstance(model, bytes) else str(model)
        self.session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        self._binding = self.session.io_binding()
        self._inputs = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
        for name, array in self._inputs.items():
            self._binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        self.outputs: dict[str, np.ndarray] = {}
        """Written by every call. A ring is bound as input and output, and not listed."""
        for argument in self.session.get_outputs():
            if "_ring_out_" in argument.name:
                array = self._inputs[argument.name.replace("_out", "")]
            else:
                shape = [1 if isinstance(axis, str) else axis for axis in argument.shape]  # the batch
                array = self.outputs[argument.name] = np.zeros(shape, np.float32)
            self._binding.bind_output(argument.name, "cpu", 0, np.float32, array.shape, array.ctypes.data)

    def __call__(self) -> None:
        self.session.run_with_iobinding(self._binding)


def session_options(threads: int) -> ort.SessionOptions:
    """What `dsa_runtime.engine` loads a package's graphs with, and the library of the custom operators."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.register_custom_ops_library(library.find().path)
    return options


def bind_forms(
    paths: Mapping[Form, Path], feeds: Mapping[str, np.ndarray], threads: int, turn: int = 0
) -> dict[Form, Call]:
    """Every form in a session of its own on the same context, `feeds` being `paged_feeds`; `turn` moves the order."""
    forms = list(paths)
    first = turn % len(forms)
    return {
        form: Call(paths[form], ring_feeds(feeds) if form == "ring" else feeds, session_options(threads))
        for form in forms[first:] + forms[:first]
    }


def check_forms(paths: Mapping[Form, Path], feeds: Mapping[str, np.ndarray], threads: int) -> None:
    """`RuntimeError` if the forms do not agree."""
    calls = bind_forms(paths, feeds, threads)
    timeless = Call(without_time(paths["op"]), feeds, session_options(threads))
    for call in (*calls.values(), timeless):
        call()
    require_agreement("gather", calls["gather"].outputs, "op", calls["op"].outputs)
    require_agreement("ring", calls["ring"].outputs, "op without time", timeless.outputs)


def require_agreement(name: str, got: Mapping[str, np.ndarray], other: str, wanted: Mapping[str, np.ndarray]) -> None:
    """`RuntimeError` unless all outputs are equal up to float32 rounding."""
    for output, expected in wanted.items():
        difference = float(np.abs(got[output] - expected).max())
        if not difference <= 1e-4 * max(1.0, float(np.abs(expected).max())):
            raise RuntimeError(f"{name} and {other} disagree on {output} by {difference:g}")


def matmul_call(size: int, threads: int) -> Call:
    """One float32 product of two `size` x `size` matrices, both of them inputs: the ceiling of arithmetic."""
    operands, product = (
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [size, size]) for name in names]
        for names in (("left", "right"), ("product",))
    )
    graph = helper.make_graph([helper.make_node("MatMul", ["left", "right"], ["product"])], "m", operands, product)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=IR_VERSION)
    matrix = np.random.default_rng(0).standard_normal((size, size), np.float32)
    return Call(model.SerializeToString(), {"left": matrix, "right": matrix}, session_options(threads))
