"""The exported graphs compute what the torch modules do.

The form with custom operators is run twice: in ONNX Runtime where their library is built, and everywhere in onnx's
own evaluator with the operators' reference in numpy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from onnx.reference import ReferenceEvaluator  # noqa: E402
from onnx.reference.op_run import OpRun  # noqa: E402

from dsa_runtime.engine import Engine  # noqa: E402
from dsa_runtime.form import Form  # noqa: E402
from dsa_runtime.ops import library, reference  # noqa: E402
from dsa_runtime.ops.schema import DOMAIN  # noqa: E402
from dsa_runtime.package import open_package  # noqa: E402
from exporters.model.autoencoder import pictures_to_float, pictures_to_uint8  # noqa: E402
from exporters.model.generator import Generator, GeneratorConfig  # noqa: E402
from exporters.packaging.graphs import Graph, generator_graphs  # noqa: E402
from exporters.packaging.lean import lean_generator  # noqa: E402
from exporters.packaging.rounding import deployed_autoencoder, deployed_generator  # noqa: E402
from exporters.packaging.write import GRAPH_FILES  # noqa: E402
from tests.small_world import (  # noqa: E402
    GENERATOR,
    PICTURE,
    small_autoencoder,
    small_clips,
    small_generator,
    small_package,
)

TOLERANCE = 2e-5
SHAPES = [(1, 4), (2, 7), (5, 3)]


class PagedFrameAttention(OpRun):
    """The operator for onnx's evaluator, as the reference defines it."""

    op_domain = DOMAIN

    def _run(self, *inputs: np.ndarray, scale: float, temporal_dims: int, theta: float) -> tuple[np.ndarray]:
        return (reference.paged_frame_attention(*inputs, scale=scale, temporal_dims=temporal_dims, theta=theta),)


class PagedFrameWrite(OpRun):
    """As `PagedFrameAttention`."""

    op_domain = DOMAIN

    def _run(self, *inputs: np.ndarray) -> tuple[np.ndarray]:
        return (reference.paged_frame_write(*inputs),)


def operator_library() -> str:
    """Path of the compiled operators; skips the test where there are none."""
    try:
        return library.find().path
    except library.LibraryMissing as error:
        pytest.skip(str(error))


@functools.cache
def engine(form: Form = "plain") -> Engine:
    """Of the small package; skips the test if this form cannot run here."""
    if form == "op":
        operator_library()
    with open_package(small_package()) as package:
        return Engine(package, threads=1, form=form)


@functools.cache
def in_numpy(graph: str) -> ReferenceEvaluator:
    """A graph of the small package in onnx's evaluator, which needs no compiled operators."""
    operators: Any = [PagedFrameAttention, PagedFrameWrite]
    return ReferenceEvaluator(onnx.load(small_package() / GRAPH_FILES[graph]), new_ops=operators)


RUNNERS: dict[str, Callable[[str], Any]] = {
    "plain": lambda graph: engine("plain").graphs[graph],
    "op": lambda graph: engine("op").graphs[graph],
    "op in numpy": lambda graph: in_numpy(f"{graph}_op"),
}


def generator_inputs(config: GeneratorConfig, batch: int, slots: int, tables: str) -> dict[str, torch.Tensor]:
    """Random inputs; ages are out of order, and `random` tables hold empty and repeated slots."""
    rng = np.random.default_rng(batch * 100 + slots)
    c = config
    table = rng.integers(0, slots, (batch, c.window))
    if tables == "random":
        table = np.where(rng.random(table.shape) < 0.4, -1, table)
        table[0, 0] = table[0, -1] = 0
    if tables == "empty":
        table[:] = -1
    inputs = {
        "latent": rng.normal(size=(batch, c.latent_channels, c.latent_height, c.latent_width)).astype(np.float32),
        "level": rng.random(batch).astype(np.float32),
        "action": np.eye(c.action_width, dtype=np.float32)[rng.integers(0, c.action_width, batch)],
        "slot_table": table.astype(np.int32),
        "slot_age": rng.integers(1, 12, table.shape).astype(np.int32),
    }
    for layer in range(c.depth):
        for kind in ("key", "value"):
            pool = rng.normal(size=(slots, c.tokens, c.heads, c.head_dim)).astype(np.float32)
            inputs[f"{kind}_pool_{layer}"] = pool
    return {name: torch.from_numpy(array) for name, array in inputs.items()}


def expected(graph: Graph, inputs: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    with torch.no_grad():
        outputs = graph.module(*inputs.values())
    return {name: output.numpy() for name, output in zip(graph.outputs, outputs, strict=True)}


@pytest.mark.parametrize("tables", ["full", "random", "empty"])
@pytest.mark.parametrize(("batch", "slots"), SHAPES)
@pytest.mark.parametrize("index", [0, 1], ids=["denoise", "commit"])
@pytest.mark.parametrize("runner", RUNNERS.values(), ids=RUNNERS)
def test_generator_graphs(runner: Callable[[str], Any], index: int, batch: int, slots: int, tables: str) -> None:
    graph = generator_graphs(deployed_generator(small_generator()), "plain")[index]
    inputs = generator_inputs(GENERATOR, batch, slots, tables)
    wanted = expected(graph, inputs)
    feed = {name: tensor.numpy() for name, tensor in inputs.items()}
    for name, output in zip(wanted, runner(graph.name).run(list(wanted), feed), strict=True):
        assert np.abs(output).max() > 1e-2, f"{name}: silent"
        np.testing.assert_allclose(output, wanted[name], atol=TOLERANCE, err_msg=name)


def write_session() -> ort.InferenceSession:
    """The write graph with the compiled operators; skips the test where there are none."""
    options = ort.SessionOptions()
    options.register_custom_ops_library(operator_library())
    path = small_package() / GRAPH_FILES["write_op"]
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("slots", [[6, 0], [-1, 3], [-1, -1]], ids=str)
@pytest.mark.parametrize("make", [write_session, lambda: in_numpy("write_op")], ids=["op", "op in numpy"])
def test_write_graph(make: Callable[[], Any], slots: list[int]) -> None:
    graph = generator_graphs(small_generator(), "op")[2]
    rng = np.random.default_rng(0)
    feed: dict[str, np.ndarray] = {"slot": np.array(slots, np.int32)}
    for name, tensor in list(graph.inputs.items())[1:]:
        first = {"B": 2, "S": 7}[graph.free[name]]
        feed[name] = rng.normal(size=(first, *tensor.shape[1:])).astype(np.float32)
    in_torch = graph.module(*map(torch.from_numpy, feed.values()))
    outputs = make().run(list(graph.outputs), feed)
    for name, output, tensor in zip(graph.outputs, outputs, in_torch, strict=True):
        frame, pool = feed[name.replace("_pool_out_", "_")], feed[name.replace("_out_", "_")]
        wanted = reference.paged_frame_write(frame, pool, feed["slot"])
        np.testing.assert_array_equal(output, wanted, err_msg=name)
        np.testing.assert_array_equal(tensor.numpy(), wanted, err_msg=name)


def test_every_input_matters() -> None:
    """A wrong wiring (say, pools in another order) changes outputs; so must a change of any single input."""
    inputs = {n: t.numpy() for n, t in generator_inputs(GENERATOR, 2, 6, "full").items()}
    last = GENERATOR.depth - 1
    for name in ("denoise", "commit"):
        session = engine().graphs[name]
        before = session.run(None, inputs)
        for changed in inputs:
            if name == "commit" and changed in (f"key_pool_{last}", f"value_pool_{last}"):
                continue  # keys and values of the last layer do not depend on its own attention
            array = inputs[changed]
            other = (array + 1) % 6 if changed == "slot_table" else array + np.asarray(1, array.dtype)
            after = session.run(None, {**inputs, changed: other})
            gap = max(float(np.abs(a - b).max()) for a, b in zip(before, after, strict=True))
            assert gap > 1e-4, f"{name}: {changed} has no effect"


@pytest.mark.parametrize("batch", [1, 3])
def test_autoencoder_graphs(batch: int) -> None:
    frames = small_clips(count=batch, length=1).frames[:, 0]
    for rounded in (deployed_autoencoder(small_autoencoder()),):
        with torch.no_grad():
            latent = rounded.encode(pictures_to_float(torch.from_numpy(frames)))
            picture = pictures_to_uint8(rounded.decode(latent)).numpy()
    np.testing.assert_allclose(engine().encode(frames), latent.numpy(), atol=TOLERANCE)
    decoded = engine().graphs["decode"].run(["frame"], {"latent": latent.numpy()})[0]
    assert decoded.dtype == np.uint8 and decoded.shape == (batch, *PICTURE)
    assert len(np.unique(decoded)) > 10, "silent"
    assert np.abs(decoded.astype(int) - picture).max() <= 1


def test_decode_clamps() -> None:
    latent = np.full((1, *engine().spec.latent.shape), 1e4, np.float32)
    module = deployed_autoencoder(small_autoencoder())
    with torch.no_grad():
        raw = module.decode(torch.from_numpy(latent))
    assert raw.abs().max() > 2, "the latent is not extreme enough to need clamping"
    decoded = engine().graphs["decode"].run(["frame"], {"latent": latent})[0]
    np.testing.assert_array_equal(decoded, pictures_to_uint8(raw).numpy())


@pytest.mark.parametrize("patch", [1, 2])
def test_lean_blocks_equal_blocks(patch: int) -> None:
    config = GeneratorConfig(
        latent_height=4, latent_width=8, dim=48, depth=2, heads=3, temporal_dims=8, window=2, patch=patch
    )
    generator: Generator = deployed_generator(small_generator(config))
    plain, lean = (generator_graphs(g, "plain")[0] for g in (generator, lean_generator(generator)))
    inputs = generator_inputs(config, 3, 5, "random")
    outputs = expected(lean, inputs)
    for name, wanted in expected(plain, inputs).items():
        np.testing.assert_allclose(outputs[name], wanted, atol=TOLERANCE, err_msg=name)


def test_graphs_hold_no_traces_of_the_machine() -> None:
    for path in small_package().glob("*.onnx"):
        content = path.read_bytes()
        assert str(Path(__file__).parents[2]).encode() not in content, path.name
        assert b"stack_trace" not in content and b".py" not in content, path.name
