"""The custom operators in the forms that export knows: plain ONNX operators, and nodes of domain `dsa`."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from dsa_runtime.ops.reference import paged_frame_attention, paged_frame_write  # noqa: E402
from dsa_runtime.ops.schema import DOMAIN, PAGED_FRAME_ATTENTION, PAGED_FRAME_WRITE, VERSION  # noqa: E402
from exporters.model import attention  # noqa: E402
from exporters.packaging import translate  # noqa: E402
from exporters.packaging.export import export_graph  # noqa: E402
from exporters.packaging.graphs import Graph  # noqa: E402
from exporters.packaging.weights_file import WeightsFile  # noqa: E402
from tests.small_world import GENERATOR, small_package  # noqa: E402

T, H, D, W = 5, 3, 8, 4
OPTIONS: dict[str, Any] = {"temporal_dims": 4, "theta": 30.0}
TABLES = {
    "full": [[4, 2, 0, 1], [3, 1, 4, 5]],
    "empty slots": [[4, -1, 0, -1], [-1, -1, 5, -1]],
    "one session empty": [[-1, -1, -1, -1], [0, 1, 2, 3]],
    "all empty": [[-1, -1, -1, -1], [-1, -1, -1, -1]],
    "duplicate slots": [[2, 2, 2, 0], [5, -1, 5, 5]],
}


class OneAttention(torch.nn.Module):
    """The operator alone, so that it can be exported by itself."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.function(*inputs, **OPTIONS)
        return result


def example(table: list[list[int]], seed: int = 0) -> dict[str, np.ndarray]:
    """Two sessions, six slots; ages out of order."""
    rng = np.random.default_rng(seed)
    arrays = {n: rng.normal(size=(2, T, H, D)) for n in ("query", "key", "value")}
    arrays |= {n: rng.normal(size=(6, T, H, D)) for n in ("key_pool", "value_pool")}
    floats = {name: array.astype(np.float32) for name, array in arrays.items()}
    age = rng.permuted(np.tile(np.arange(1, 2 * W, 2), (2, 1)), axis=1)
    return {**floats, "slot_table": np.array(table, np.int32), "slot_age": age.astype(np.int32)}


def one_attention(function: Any) -> Graph:
    inputs = {name: torch.from_numpy(array) for name, array in example(TABLES["full"]).items()}
    free = {name: "S" if array.shape[0] == 6 else "B" for name, array in inputs.items()}
    return Graph("attention", OneAttention(function), inputs, free, ("output",))


@functools.cache
def plain_session() -> ort.InferenceSession:
    content = export_graph(one_attention(attention.paged_attention), WeightsFile("unused"))
    return ort.InferenceSession(content, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_torch_and_plain_graph_equal_the_reference(table: list[list[int]]) -> None:
    inputs = example(table)
    reference = paged_frame_attention(**inputs, **OPTIONS)
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    in_torch = attention.paged_attention(**tensors, **OPTIONS).numpy()
    as_operator = translate.paged_frame_attention(**tensors, **OPTIONS).numpy()
    in_onnx = plain_session().run(None, inputs)[0]
    for form in (in_torch, as_operator, in_onnx):
        np.testing.assert_allclose(form, reference, atol=2e-6)


def test_random_tables_and_sizes() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        batch, slots = int(rng.integers(1, 5)), int(rng.integers(1, 9))
        inputs = {
            **{n: rng.normal(size=(batch, T, H, D)).astype(np.float32) for n in ("query", "key", "value")},
            **{n: rng.normal(size=(slots, T, H, D)).astype(np.float32) for n in ("key_pool", "value_pool")},
            "slot_table": rng.integers(-1, slots, (batch, W)).astype(np.int32),
            "slot_age": rng.integers(1, 100, (batch, W)).astype(np.int32),
        }
        reference = paged_frame_attention(**inputs, **OPTIONS)
        np.testing.assert_allclose(plain_session().run(None, inputs)[0], reference, atol=5e-6)


def test_operator_with_another_scale() -> None:
    inputs = example(TABLES["empty slots"])
    translate.translation_table()  # registers the operator
    tensors = [torch.from_numpy(array) for array in inputs.values()]
    result = torch.ops.dsa.paged_frame_attention(*tensors, 0.7, 4, 30.0).numpy()
    np.testing.assert_allclose(result, paged_frame_attention(**inputs, scale=0.7, **OPTIONS), atol=2e-6)


def test_operator_is_sound_for_tracing() -> None:
    translate.translation_table()
    tensors = tuple(torch.from_numpy(array) for array in example(TABLES["full"]).values())
    torch.library.opcheck(
        torch.ops.dsa.paged_frame_attention.default,
        (*tensors, 0.3, 4, 30.0),
        test_utils=("test_schema", "test_faketensor"),
    )
    frame, pool, slot = torch.rand(2, T, H, D), torch.rand(6, T, H, D), torch.tensor([4, -1], dtype=torch.int32)
    torch.library.opcheck(
        torch.ops.dsa.paged_frame_write.default, (frame, pool, slot), test_utils=("test_schema", "test_faketensor")
    )


@pytest.mark.parametrize("slots", [[4, 1], [-1, 0], [-1, -1]], ids=str)
def test_torch_writes_as_the_reference(slots: list[int]) -> None:
    frame, pool, slot = torch.rand(2, T, H, D), torch.rand(6, T, H, D), torch.tensor(slots, dtype=torch.int32)
    before = pool.clone()
    written = translate.paged_frame_write(frame, pool, slot)
    np.testing.assert_array_equal(written.numpy(), paged_frame_write(frame.numpy(), pool.numpy(), slot.numpy()))
    assert torch.equal(pool, before)


@pytest.mark.parametrize(("graph", "count"), [("denoise", GENERATOR.depth), ("commit", GENERATOR.depth - 1)])
def test_op_form_has_one_node_per_attention(graph: str, count: int) -> None:
    model, plain = (onnx.load(small_package() / f"{graph}{suffix}.onnx") for suffix in ("", ".plain"))
    assert {(entry.domain, entry.version) for entry in model.opset_import} >= {(DOMAIN, VERSION)}
    nodes = [node for node in model.graph.node if node.domain == DOMAIN]
    assert [node.op_type for node in nodes] == [PAGED_FRAME_ATTENTION.name] * count
    for layer, node in enumerate(nodes):
        # The pools and tables come straight from the graph's inputs: nothing gathers or copies them before.
        assert list(node.input[3:]) == [f"key_pool_{layer}", f"value_pool_{layer}", "slot_table", "slot_age"]
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        assert attributes == {
            "scale": pytest.approx(GENERATOR.head_dim**-0.5),
            "temporal_dims": GENERATOR.temporal_dims,
            "theta": pytest.approx(GENERATOR.theta),
        }
    used = {name for node in model.graph.node for name in node.input}
    assert "GatherND" not in {node.op_type for node in model.graph.node}
    for of in ("input", "output"):
        assert [(v.name, v.type) for v in getattr(model.graph, of)] == [
            (v.name, v.type) for v in getattr(plain.graph, of)
        ]
    assert {"slot_table", "slot_age"} <= used


def test_the_write_graph_is_one_node_for_each_pool() -> None:
    """Nothing lies between the pools and the operator, so that it can work in place."""
    model = onnx.load(small_package() / "write.onnx")
    kinds = [f"{kind}_{layer}" for layer in range(GENERATOR.depth) for kind in ("key", "value")]
    pools, written = ([kind.replace("_", infix) for kind in kinds] for infix in ("_pool_", "_pool_out_"))
    assert [i.name for i in model.graph.input] == ["slot", *kinds, *pools]
    assert [o.name for o in model.graph.output] == written
    nodes = [(node.op_type, *node.input, *node.output) for node in model.graph.node]
    rows = zip(kinds, pools, written, strict=True)
    assert nodes == [(PAGED_FRAME_WRITE.name, kind, pool, "slot", out) for kind, pool, out in rows]
    assert not model.graph.initializer
