"""A test fixture: a tiny world whose tick is a chunk of several pictures, with a streaming decoder and a prompt.

As `tests.tiny_world`, and with it: every output depends on every input that it should depend on, nothing is trained.
Two latent frames are a tick; of each the decoder makes two pictures, the first of them half way from the frame before,
which it remembers from the tick before.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import NodeProto, TensorProto, helper

from dsa_runtime.spec import (
    CacheSpec,
    CalibrationSpec,
    Curve,
    DecoderSpec,
    FrameSpec,
    LatentSpec,
    OperatingPoint,
    OpsSpec,
    ScheduleSpec,
    TextSpec,
    WorldSpec,
)
from tests.tiny_world import (
    CHANNELS,
    DISCRETE,
    FEATURES,
    GRID,
    HEAD_DIM,
    HEADS,
    HEIGHT,
    LAYERS,
    LEVELS,
    WIDTH,
    Graph,
    column,
    file_entry,
    write_weights,
)

CHUNK = 2
"""Latent frames of a tick."""
PICTURES = 2 * CHUNK
TOKENS = CHUNK * GRID * GRID
WINDOW, SINK = 3, 1
TEXT_TOKENS, TEXT_WIDTH = 3, 5
PROMPTS = ("a calm sea", "a storm")
LATENT = (CHANNELS, CHUNK, GRID, GRID)
STATE = (CHANNELS, 1, GRID, GRID)
GRAPHS = {name: f"{name}.onnx" for name in ("denoise", "commit", "decode", "decode_first", "condition")}


def write_chunk_world(folder: Path, *, begins_with: int = WINDOW) -> Path:
    """Write the package to `folder` and return it.

    begins_with   ticks of the start contexts, 0 .. WINDOW
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(20261122)
    weights = {
        "action_weight": rng.normal(0, 0.8, (DISCRETE.width, CHANNELS)),
        "context_weight": rng.normal(0, 0.5, (FEATURES, CHANNELS)),
        "key_weight": rng.normal(0, 0.7, (CHANNELS, FEATURES)),
        "value_weight": rng.normal(0, 0.7, (CHANNELS, FEATURES)),
        "action_key_weight": rng.normal(0, 0.7, (DISCRETE.width, FEATURES)),
        "text_weight": rng.normal(0, 1.0, (TEXT_WIDTH, FEATURES)),
        "prompt_weight": rng.normal(0, 0.8, (FEATURES, CHANNELS)),
        "to_rgb": rng.normal(0, 0.6, (CHANNELS, 3)),
    }
    write_weights(folder / "weights.bin", weights)
    builders = {
        "denoise": _denoise, "commit": _commit, "decode": _decode, "decode_first": _decode_first,
        "condition": _condition,
    }  # fmt: skip
    for name, build in builders.items():
        graph = Graph(weights, HEIGHT, WIDTH)
        build(graph)
        (folder / GRAPHS[name]).write_bytes(graph.model().SerializeToString())
    latents = rng.normal(0, 0.5, (2, begins_with, *LATENT)).astype(np.float32)
    np.savez(folder / "seeds.npz", latents=latents, actions=rng.integers(0, 4, (2, begins_with)))
    text = rng.normal(0, 1, (len(PROMPTS), TEXT_TOKENS, TEXT_WIDTH)).astype(np.float32)
    np.savez(folder / "prompts.npz", text=text)
    (folder / "world.json").write_text(_spec(folder).to_json())
    return folder


def _generator(graph: Graph) -> str:
    """Inputs of denoise and commit; returns the tokens, [B, T, C], of the latent and of all that it is drawn from."""
    graph.input("latent", TensorProto.FLOAT, ["B", *LATENT])
    graph.input("level", TensorProto.FLOAT, ["B"])
    graph.input("action", TensorProto.FLOAT, ["B", DISCRETE.width])
    graph.input("slot_table", TensorProto.INT32, ["B", WINDOW])
    graph.input("slot_age", TensorProto.INT32, ["B", WINDOW])
    graph.input("prompt", TensorProto.FLOAT, ["B", 2 * LAYERS, TEXT_TOKENS, HEADS, HEAD_DIM])
    for layer in range(LAYERS):
        for kind in ("key", "value"):
            graph.input(f"{kind}_pool_{layer}", TensorProto.FLOAT, ["S", TOKENS, HEADS, HEAD_DIM])
    flat = graph.add("Reshape", "latent", graph.constant([0, CHANNELS, TOKENS], np.int64))
    tokens = graph.add("Transpose", flat, perm=[0, 2, 1])
    level = column(graph, column(graph, "level"))
    kept = graph.add("Mul", tokens, graph.add("Sub", graph.constant(1.1), level))
    text = graph.add("ReduceMean", "prompt", graph.constant([1, 2], np.int64), keepdims=0)
    text = graph.add("Reshape", text, graph.constant([0, 1, FEATURES], np.int64))
    action = column(graph, graph.add("MatMul", "action", graph.weight("action_weight")))
    told = graph.add("Add", action, graph.add("MatMul", text, graph.weight("prompt_weight")))
    return graph.add("Add", graph.add("Add", kept, told), _past(graph))


def _past(graph: Graph) -> str:
    """[B, T, C]: cached values gated by their keys, over their age; empty slots count nothing."""
    filled = graph.add("GreaterOrEqual", "slot_table", graph.constant(0, np.int32))
    index = graph.add("Max", "slot_table", graph.constant(0, np.int32))
    weight = graph.add("Div", graph.add("Cast", filled, to=1), graph.add("Cast", "slot_age", to=1))
    weight = graph.add("Reshape", weight, graph.constant([-1, WINDOW, 1, 1, 1], np.int64))
    parts = []
    for layer in range(LAYERS):
        gate = graph.add("Sigmoid", graph.add("Gather", f"key_pool_{layer}", index, axis=0))
        gated = graph.add("Mul", graph.add("Gather", f"value_pool_{layer}", index, axis=0), gate)
        parts.append(graph.add("ReduceSum", graph.add("Mul", gated, weight), graph.constant([1], np.int64), keepdims=0))
    flat = graph.add("Reshape", graph.add("Sum", *parts), graph.constant([0, TOKENS, FEATURES], np.int64))
    return graph.add("MatMul", flat, graph.weight("context_weight"))


def _denoise(graph: Graph) -> None:
    clean = graph.add("Tanh", _generator(graph))
    restored = graph.add("Transpose", clean, perm=[0, 2, 1])
    restored = graph.add("Reshape", restored, graph.constant([0, *LATENT], np.int64))
    graph.output("clean", TensorProto.FLOAT, ["B", *LATENT], restored)
    mean = graph.add("ReduceMean", clean, graph.constant([1, 2], np.int64), keepdims=0)
    rising = graph.add("Sub", graph.constant(2.5), graph.add("Mul", "level", graph.constant(4.0)))
    graph.output("confidence_logit", TensorProto.FLOAT, ["B"], graph.add("Add", rising, mean))


def _commit(graph: Graph) -> None:
    tokens = _generator(graph)
    for layer in range(LAYERS):
        for kind in ("key", "value"):
            features = graph.add("MatMul", tokens, graph.weight(f"{kind}_weight"))
            features = graph.add("Tanh", graph.add("Mul", features, graph.constant(1.0 / (layer + 1))))
            shaped = graph.add("Reshape", features, graph.constant([0, TOKENS, HEADS, HEAD_DIM], np.int64))
            graph.output(f"{kind}_{layer}", TensorProto.FLOAT, ["B", TOKENS, HEADS, HEAD_DIM], shaped)


def _condition(graph: Graph) -> None:
    text = graph.input("text", TensorProto.FLOAT, ["B", TEXT_TOKENS, TEXT_WIDTH])
    features = graph.add("MatMul", text, graph.weight("text_weight"))
    one = graph.add("Reshape", features, graph.constant([0, 1, TEXT_TOKENS, HEADS, HEAD_DIM], np.int64))
    prompt = graph.add("Tile", one, graph.constant([1, 2 * LAYERS, 1, 1, 1], np.int64))
    graph.output("prompt", TensorProto.FLOAT, ["B", 2 * LAYERS, TEXT_TOKENS, HEADS, HEAD_DIM], prompt)


def _decode_first(graph: Graph) -> None:
    latent = graph.input("latent", TensorProto.FLOAT, ["B", *LATENT])
    ends = [graph.constant([value], np.int64) for value in (0, 1, 2)]
    _pictures(graph, latent, graph.add("Slice", latent, ends[0], ends[1], ends[2]))


def _decode(graph: Graph) -> None:
    latent = graph.input("latent", TensorProto.FLOAT, ["B", *LATENT])
    _pictures(graph, latent, graph.input("state_0", TensorProto.FLOAT, ["B", *STATE]))


def _pictures(graph: Graph, latent: str, before: str) -> None:
    sizes = graph.constant([CHUNK - 1, 1], np.int64)
    graph.nodes.append(_split(latent, sizes))
    shifted = graph.add("Concat", before, "earlier", axis=2)
    between = graph.add("Mul", graph.add("Add", shifted, latent), graph.constant(0.5))
    pairs = [graph.add("Unsqueeze", x, graph.constant([3], np.int64)) for x in (between, latent)]
    both = graph.add("Concat", *pairs, axis=3)
    film = graph.add("Reshape", both, graph.constant([0, CHANNELS, PICTURES, GRID, GRID], np.int64))
    film = graph.add("Transpose", film, perm=[0, 2, 3, 4, 1])
    rgb = graph.add("Sigmoid", graph.add("MatMul", film, graph.weight("to_rgb")))
    rgb = graph.add("Round", graph.add("Mul", rgb, graph.constant(255.0)))
    rgb = graph.add("Reshape", rgb, graph.constant([0, PICTURES, GRID, 1, GRID, 1, 3], np.int64))
    repeats = graph.constant([1, 1, 1, HEIGHT // GRID, 1, WIDTH // GRID, 1], np.int64)
    size = [PICTURES, HEIGHT, WIDTH, 3]
    tiled = graph.add("Reshape", graph.add("Tile", rgb, repeats), graph.constant([0, *size], np.int64))
    graph.output("frame", TensorProto.UINT8, ["B", *size], graph.add("Cast", tiled, to=TensorProto.UINT8))
    graph.output("state_out_0", TensorProto.FLOAT, ["B", *STATE], "newest")


def _split(latent: str, sizes: str) -> NodeProto:
    return helper.make_node("Split", [latent, sizes], ["earlier", "newest"], axis=2)


def _spec(folder: Path) -> WorldSpec:
    curve = Curve((-4.0, 4.0), (0.0, 1.0))
    files = (*GRAPHS.values(), "weights.bin", "seeds.npz", "prompts.npz")
    return WorldSpec(
        name="chunks",
        version="0.0.1",
        licence="CC0-1.0",
        description="test fixture",
        frame=FrameSpec(HEIGHT, WIDTH, 3, 16.0, PICTURES, (4, 3)),
        action_space=DISCRETE,
        latent=LatentSpec(CHANNELS, GRID, GRID, CHUNK),
        cache=CacheSpec(LAYERS, HEADS, HEAD_DIM, TOKENS, WINDOW, SINK, 2, 100.0),
        schedule=ScheduleSpec(LEVELS, 0.0),
        ops=OpsSpec("dsa", 1),
        graphs=GRAPHS,
        calibration=CalibrationSpec(0.05, "rms", 0.5, (curve,) * 3, (curve,) * 3, (OperatingPoint(0.5, 2.0),)),
        files={file: file_entry(folder / file) for file in files},
        provenance={"what": "a test fixture"},
        decoder=DecoderSpec((STATE,)),
        text=TextSpec(TEXT_WIDTH, TEXT_TOKENS, "none", PROMPTS),
    )
