"""A test fixture: a tiny world package, made with the `onnx` package in milliseconds. Nothing in it is
trained.

Its graphs have the inputs, outputs and data flow of a real world, and every output depends on every input
that it should depend on. So tests of the runtime can see whether the noise, the level, the action, the cached
frames, their order and their ages reach the frame. The arithmetic is a fixed random projection, nothing more.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dsa_runtime.spec import (
    ActionSpace,
    Box,
    CacheSpec,
    CalibrationSpec,
    Curve,
    Discrete,
    FileEntry,
    FrameSpec,
    LatentSpec,
    OperatingPoint,
    OpsSpec,
    ScheduleSpec,
    WorldSpec,
)

HEIGHT = WIDTH = 8
CHANNELS, GRID = 4, 2
TOKENS, HEADS, HEAD_DIM, LAYERS = GRID * GRID, 2, 4, 2
FEATURES = HEADS * HEAD_DIM
WINDOW = 3
LEVELS = (1.0, 0.75, 0.5, 0.25)
SEEDS = 2
FILES = ("denoise.plain.onnx", "commit.plain.onnx", "decode.onnx", "encode.onnx", "weights.bin", "seeds.npz")
DISCRETE = Discrete(4, ("noop", "left", "right", "fire"))


def write_tiny_world(
    folder: Path,
    action_space: ActionSpace = DISCRETE,
    *,
    sink: int = 0,
    window: int = WINDOW,
    name: str = "tiny",
    height: int = HEIGHT,
    width: int = WIDTH,
) -> Path:
    """Write the package to `folder` and return it. The start contexts and the weights are always the same.

    height, width   of its frames, multiples of `GRID`; they cost a larger picture and no more arithmetic than that
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(20240521)
    weights = {
        "action_weight": rng.normal(0, 0.8, (action_space.width, CHANNELS)),
        "context_weight": rng.normal(0, 0.5, (FEATURES, CHANNELS)),
        "key_weight": rng.normal(0, 0.7, (CHANNELS, FEATURES)),
        "value_weight": rng.normal(0, 0.7, (CHANNELS, FEATURES)),
        "action_key_weight": rng.normal(0, 0.7, (action_space.width, FEATURES)),
        "to_rgb": rng.normal(0, 0.6, (CHANNELS, 3)),
        "from_rgb": rng.normal(0, 1.0, (3, CHANNELS)),
    }
    write_weights(folder / "weights.bin", weights)
    builders = {
        "denoise.plain.onnx": _denoise, "commit.plain.onnx": _commit, "decode.onnx": _decode, "encode.onnx":
        _encode,
    }  # fmt: skip
    for file, build in builders.items():
        graph = build(Graph(weights, height, width), action_space.width, window)
        (folder / file).write_bytes(graph.model().SerializeToString())
    _write_seeds(folder / "seeds.npz", action_space, window, (height, width), rng)
    (folder / "card.md").write_text("A test fixture, not a trained world.\n")
    spec = _spec(folder, action_space, sink, window, name, (height, width))
    (folder / "world.json").write_text(spec.to_json())
    return folder


def edit_spec(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change the document of `world.json` in place, past all validation."""
    document = json.loads((folder / "world.json").read_text())
    edit(document)
    (folder / "world.json").write_text(json.dumps(document))


def seal(folder: Path) -> None:
    """Make the sizes and hashes in `world.json` match the files again."""

    def update(document: dict[str, Any]) -> None:
        document["files"] = {file: vars(file_entry(folder / file)) for file in document["files"]}

    edit_spec(folder, update)


def pack(folder: Path, archive: Path, compression: int = zipfile.ZIP_STORED) -> Path:
    """The package as a `.dsaworld` archive."""
    with zipfile.ZipFile(archive, "w", compression) as target:
        for path in sorted(folder.iterdir()):
            target.write(path, path.name)
    return archive


class Graph:
    """Collects nodes; weights are external, stored as float16 and cast in the graph, as in real packages."""

    def __init__(self, weights: dict[str, np.ndarray], height: int, width: int) -> None:
        self.height, self.width = height, width  # of frames
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._offsets = _offsets(weights)
        self._shapes = {name: value.shape for name, value in weights.items()}

    def input(self, name: str, kind: int, shape: list[Any]) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name: str, kind: int, shape: list[Any], source: str) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, kind, shape))
        self.nodes.append(helper.make_node("Identity", [source], [name]))

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weight(self, name: str) -> str:
        tensor = onnx.TensorProto(name=name, data_type=TensorProto.FLOAT16, dims=self._shapes[name])
        tensor.data_location = TensorProto.EXTERNAL
        offset, length = self._offsets[name]
        for key, value in (("location", "weights.bin"), ("offset", str(offset)), ("length", str(length))):
            tensor.external_data.add(key=key, value=value)
        if all(tensor.name != other.name for other in self.constants):
            self.constants.append(tensor)
        return self.add("Cast", name, to=TensorProto.FLOAT)

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "tiny", self.inputs, self.outputs, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def _generator_inputs(graph: Graph, actions: int, window: int) -> None:
    graph.input("latent", TensorProto.FLOAT, ["B", CHANNELS, GRID, GRID])
    graph.input("level", TensorProto.FLOAT, ["B"])
    graph.input("action", TensorProto.FLOAT, ["B", actions])
    graph.input("slot_table", TensorProto.INT32, ["B", window])
    graph.input("slot_age", TensorProto.INT32, ["B", window])
    for layer in range(LAYERS):
        graph.input(f"key_pool_{layer}", TensorProto.FLOAT, ["S", TOKENS, HEADS, HEAD_DIM])
        graph.input(f"value_pool_{layer}", TensorProto.FLOAT, ["S", TOKENS, HEADS, HEAD_DIM])


def to_tokens(graph: Graph, latent: str) -> str:
    flat = graph.add("Reshape", latent, graph.constant([0, CHANNELS, TOKENS], np.int64))
    return graph.add("Transpose", flat, perm=[0, 2, 1])


def _context(graph: Graph, window: int) -> str:
    """[B, T, CHANNELS]: cached values weighted by their keys and by 1 / age; empty slots count nothing."""
    filled = graph.add("GreaterOrEqual", "slot_table", graph.constant(0, np.int32))
    index = graph.add("Max", "slot_table", graph.constant(0, np.int32))
    weight = graph.add("Div", graph.add("Cast", filled, to=1), graph.add("Cast", "slot_age", to=1))
    weight = graph.add("Reshape", weight, graph.constant([-1, window, 1, 1, 1], np.int64))
    total = None
    for layer in range(LAYERS):
        gate = graph.add("Sigmoid", graph.add("Gather", f"key_pool_{layer}", index, axis=0))
        gated = graph.add("Mul", graph.add("Gather", f"value_pool_{layer}", index, axis=0), gate)
        part = graph.add("ReduceSum", graph.add("Mul", gated, weight), graph.constant([1], np.int64), keepdims=0)
        total = part if total is None else graph.add("Add", total, part)
    assert total is not None
    flat = graph.add("Reshape", total, graph.constant([0, TOKENS, FEATURES], np.int64))
    return graph.add("MatMul", flat, graph.weight("context_weight"))


def column(graph: Graph, vector: str) -> str:
    return graph.add("Unsqueeze", vector, graph.constant([1], np.int64))


def _denoise(graph: Graph, actions: int, window: int) -> Graph:
    _generator_inputs(graph, actions, window)
    context = _context(graph, window)
    action = column(graph, graph.add("MatMul", "action", graph.weight("action_weight")))
    level = column(graph, column(graph, "level"))
    # The noisier the input, the less of it survives, as in a denoiser.
    kept = graph.add("Mul", to_tokens(graph, "latent"), graph.add("Sub", graph.constant(1.1), level))
    clean = graph.add("Tanh", graph.add("Add", graph.add("Add", kept, context), action))
    restored = graph.add("Transpose", clean, perm=[0, 2, 1])
    restored = graph.add("Reshape", restored, graph.constant([0, CHANNELS, GRID, GRID], np.int64))
    graph.output("clean", TensorProto.FLOAT, ["B", CHANNELS, GRID, GRID], restored)
    # logit = 2.5 - 4 level + mean: rises by about one with every step of LEVELS.
    mean = graph.add("ReduceMean", clean, graph.constant([1, 2], np.int64), keepdims=0)
    rising = graph.add("Sub", graph.constant(2.5), graph.add("Mul", "level", graph.constant(4.0)))
    graph.output("confidence_logit", TensorProto.FLOAT, ["B"], graph.add("Add", rising, mean))
    return graph


def _commit(graph: Graph, actions: int, window: int) -> Graph:
    _generator_inputs(graph, actions, window)
    tokens = graph.add("Add", to_tokens(graph, "latent"), _context(graph, window))
    tokens = graph.add("Add", tokens, column(graph, column(graph, "level")))
    action = column(graph, graph.add("MatMul", "action", graph.weight("action_key_weight")))
    for layer in range(LAYERS):
        for kind in ("key", "value"):
            features = graph.add("Add", graph.add("MatMul", tokens, graph.weight(f"{kind}_weight")), action)
            features = graph.add("Tanh", graph.add("Mul", features, graph.constant(1.0 / (layer + 1))))
            shaped = graph.add("Reshape", features, graph.constant([0, TOKENS, HEADS, HEAD_DIM], np.int64))
            graph.output(f"{kind}_{layer}", TensorProto.FLOAT, ["B", TOKENS, HEADS, HEAD_DIM], shaped)
    return graph


def _decode(graph: Graph, actions: int, window: int) -> Graph:
    latent = graph.input("latent", TensorProto.FLOAT, ["B", CHANNELS, GRID, GRID])
    rgb = graph.add("Sigmoid", graph.add("MatMul", to_tokens(graph, latent), graph.weight("to_rgb")))
    scaled = graph.add("Mul", rgb, graph.constant(255.0))
    grid = graph.add("Reshape", graph.add("Round", scaled), graph.constant([0, GRID, 1, GRID, 1, 3], np.int64))
    height, width = graph.height, graph.width
    repeats = graph.constant([1, 1, height // GRID, 1, width // GRID, 1], np.int64)
    frame = graph.add("Reshape", graph.add("Tile", grid, repeats), graph.constant([0, height, width, 3], np.int64))
    graph.output("frame", TensorProto.UINT8, ["B", height, width, 3], graph.add("Cast", frame, to=TensorProto.UINT8))
    return graph


def _encode(graph: Graph, actions: int, window: int) -> Graph:
    height, width = graph.height, graph.width
    frame = graph.input("frame", TensorProto.UINT8, ["B", height, width, 3])
    unit = graph.add("Div", graph.add("Cast", frame, to=TensorProto.FLOAT), graph.constant(255.0))
    blocks = graph.constant([0, GRID, height // GRID, GRID, width // GRID, 3], np.int64)
    means = graph.add("ReduceMean", graph.add("Reshape", unit, blocks), graph.constant([2, 4], np.int64), keepdims=0)
    latent = graph.add("Tanh", graph.add("MatMul", means, graph.weight("from_rgb")))
    graph.output(
        "latent",
        TensorProto.FLOAT,
        ["B", CHANNELS, GRID, GRID],
        graph.add("Transpose", latent, perm=[0, 3, 1, 2]),
    )
    return graph


def _offsets(weights: dict[str, np.ndarray]) -> dict[str, tuple[int, int]]:
    offsets, position = {}, 0
    for name, value in weights.items():
        length = value.size * 2
        offsets[name] = (position, length)
        position += -(-length // 64) * 64
    return offsets


def write_weights(path: Path, weights: dict[str, np.ndarray]) -> None:
    offsets = _offsets(weights)
    last, length = list(offsets.values())[-1]
    content = bytearray(last + length)
    for name, value in weights.items():
        start, size = offsets[name]
        content[start : start + size] = value.astype(np.float16).tobytes()
    path.write_bytes(content)


def _write_seeds(path: Path, space: ActionSpace, window: int, size: tuple[int, int], rng: np.random.Generator) -> None:
    frames = rng.integers(0, 256, (SEEDS, window, *size, 3), np.uint8)
    shape = (SEEDS, window, *space.shape)
    if isinstance(space, Discrete):
        actions: np.ndarray = rng.integers(0, space.n, shape)
    else:
        actions = rng.integers(0, 2, shape).astype(np.float32 if isinstance(space, Box) else np.uint8)
    np.savez(path, frames=frames, actions=actions)


def file_entry(path: Path) -> FileEntry:
    content = path.read_bytes()
    return FileEntry(hashlib.sha256(content).hexdigest(), len(content))


def _spec(
    folder: Path, action_space: ActionSpace, sink: int, window: int, name: str, size: tuple[int, int]
) -> WorldSpec:
    curve = Curve((-4.0, 4.0), (0.0, 1.0))
    graphs = {
        "denoise": "denoise.plain.onnx", "commit": "commit.plain.onnx", "decode": "decode.onnx", "encode":
        "encode.onnx",
    }  # fmt: skip
    files = (*FILES, "card.md")
    return WorldSpec(
        name=name,
        version="0.0.1",
        licence="CC0-1.0",
        description="test fixture",
        frame=FrameSpec(*size, 3, 20.0, 1, (4, 3)),
        action_space=action_space,
        latent=LatentSpec(CHANNELS, GRID, GRID),
        cache=CacheSpec(LAYERS, HEADS, HEAD_DIM, TOKENS, window, sink, 2, 100.0),
        schedule=ScheduleSpec(LEVELS, 0.0),
        ops=OpsSpec("dsa", 1),
        graphs=graphs,
        calibration=CalibrationSpec(0.05, "rms", 0.5, (curve,) * 3, (curve,) * 3, (OperatingPoint(0.5, 2.0),)),
        files={file: file_entry(folder / file) for file in files},
        provenance={"what": "a test fixture"},
    )
