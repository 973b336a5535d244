"""Wrong calls of the operators through ONNX Runtime: an exception that says what is wrong, and no harm done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from dsa_runtime.ops import library
from dsa_runtime.ops.reference import paged_frame_attention, paged_frame_write
from dsa_runtime.ops.schema import DOMAIN, PAGED_FRAME_ATTENTION, PAGED_FRAME_WRITE, VERSION, Operator

B, T, H, D, S, W = 2, 3, 2, 8, 4, 3
ATTRIBUTES: dict[str, Any] = {"scale": 0.4, "temporal_dims": 4, "theta": 100.0}
FLOAT, INT = TensorProto.FLOAT, TensorProto.INT32
Feed = dict[str, np.ndarray]


def load(
    operator: Operator,
    attributes: Mapping[str, Any] | None = None,
    types: Mapping[str, int] | None = None,
    inputs: Sequence[str] | None = None,
) -> ort.InferenceSession:
    """A session of one node. Its inputs have no declared shape, so that every shape reaches the operator."""
    try:
        path = library.find().path
    except library.LibraryMissing as problem:
        pytest.skip(f"no operator library: {problem}")
    names = [tensor.name for tensor in operator.inputs] if inputs is None else list(inputs)
    types = {tensor.name: INT if tensor.dtype == "int32" else FLOAT for tensor in operator.inputs} | dict(types or {})
    if attributes is None:
        attributes = ATTRIBUTES if operator.attributes else {}
    node = helper.make_node(operator.name, names, ["out"], domain=DOMAIN, **attributes)
    graph = helper.make_graph(
        [node],
        "one_node",
        [helper.make_tensor_value_info(name, types[name], None) for name in names],
        [helper.make_tensor_value_info("out", types[operator.inputs[0].name], None)],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 4  # the errors below are wanted
    options.intra_op_num_threads = 2
    options.register_custom_ops_library(path)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def attention_feed() -> Feed:
    rng = np.random.default_rng(5)
    shapes = {"query": B, "key": B, "value": B, "key_pool": S, "value_pool": S}
    feed = {name: rng.normal(size=(n, T, H, D)).astype(np.float32) for name, n in shapes.items()}
    feed["slot_table"] = np.array([[0, -1, 3], [2, 1, -1]], np.int32)
    feed["slot_age"] = np.array([[1, -7, 3], [2, 1, 0]], np.int32)
    return feed


def write_feed() -> Feed:
    rng = np.random.default_rng(6)
    feed = {name: rng.normal(size=(n, T, H, D)).astype(np.float32) for name, n in (("frame", B), ("pool", S))}
    return feed | {"slot": np.array([2, -1], np.int32)}


def entry(table: np.ndarray, index: tuple[int, ...], value: int) -> np.ndarray:
    changed: np.ndarray = table.copy()
    changed[index] = value
    return changed


A, P = attention_feed(), write_feed()
WRONG_ATTENTION: dict[str, tuple[Feed, str]] = {
    "slot too large": ({"slot_table": entry(A["slot_table"], (1, 0), S)}, r"slot_table\[1, 0\] = 4: .* 0\.\.3"),
    "slot too small": ({"slot_table": entry(A["slot_table"], (0, 2), -2)}, r"slot_table\[0, 2\] = -2: "),
    "slot far out": ({"slot_table": entry(A["slot_table"], (0, 0), -(2**31))}, r"slot_table\[0, 0\] = -2147483648: "),
    "negative age": ({"slot_age": entry(A["slot_age"], (1, 1), -1)}, r"slot_age\[1, 1\] = -1: "),
    "no pool": ({"key_pool": A["key_pool"][:0], "value_pool": A["value_pool"][:0]}, r"slot_table\[0, 0\] = 0: "),
    "rows of the table": ({"slot_table": A["slot_table"][:1]}, "slot_table: .*2"),
    "width of the ages": ({"slot_age": A["slot_age"][:, :2]}, "slot_age: .*2.*3.*slot_table"),
    "rank of the table": ({"slot_table": A["slot_table"][0]}, "slot_table: .*2 dimensions.*1"),
    "rank of the query": ({"query": A["query"].reshape(B, T, H * D)}, "query: .*4 dimensions.*3"),
    "scalar": ({"slot_age": np.array(1, np.int32)}, "slot_age: .*2 dimensions.*0"),
    "batch of the key": ({"key": A["key"][:1]}, "key: .*1.*2.*query"),
    "tokens of the value": ({"value": A["value"][:, :2]}, "value: .*2.*3.*query"),
    "heads of the pool": ({"key_pool": A["key_pool"][:, :, :1]}, "key_pool: .*1.*2"),
    "width of the pool": ({"key_pool": A["key_pool"][..., :7]}, "key_pool: .*7.*8"),
    "slots of the value pool": ({"value_pool": A["value_pool"][:3]}, "value_pool: .*3.*4.*key_pool"),
    "nobody": ({name: A[name][:0] for name in A if "pool" not in name}, "query: must not be empty"),
    "no tokens": ({name: A[name][:, :0] for name in A if "slot" not in name}, "query: must not be empty"),
    "narrow heads": ({name: A[name][..., :2] for name in A if "slot" not in name}, "temporal_dims: .*4.*2"),
}  # fmt: skip
WRONG_WRITE: dict[str, tuple[Feed, str]] = {
    "slot too large": ({"slot": np.array([0, S], np.int32)}, r"slot\[1\] = 4: .* 0\.\.3"),
    "slot too small": ({"slot": np.array([-2, 0], np.int32)}, r"slot\[0\] = -2: "),
    "slot twice": ({"slot": np.array([3, 3], np.int32)}, r"slot\[1\] = 3: "),
    "too few slots": ({"slot": np.array([3], np.int32)}, "slot: .*1.*2"),
    "rank of the slots": ({"slot": np.array([[2, -1]], np.int32)}, "slot: .*1 dimensions.*2"),
    "tokens of the pool": ({"pool": P["pool"][:, :2]}, "pool: .*2.*3"),
    "rank of the frame": ({"frame": P["frame"][0]}, "frame: .*4 dimensions.*3"),
    "nobody": ({"frame": P["frame"][:0], "slot": P["slot"][:0]}, "frame: must not be empty"),
}


@pytest.fixture(scope="module")
def attention() -> ort.InferenceSession:
    return load(PAGED_FRAME_ATTENTION)


@pytest.fixture(scope="module")
def write() -> ort.InferenceSession:
    return load(PAGED_FRAME_WRITE)


def bind(session: ort.InferenceSession, feed: Feed, output: np.ndarray) -> tuple[ort.IOBinding, ort.OrtValue]:
    """A run whose output is bound to memory that holds `output`; to the pool's own where `output` is the pool."""
    binding = session.io_binding()
    target = ort.OrtValue.ortvalue_from_numpy(output)
    for name, array in feed.items():
        binding.bind_ortvalue_input(name, target if array is output else ort.OrtValue.ortvalue_from_numpy(array))
    binding.bind_ortvalue_output("out", target)
    return binding, target


@pytest.mark.parametrize("case", WRONG_ATTENTION)
def test_a_wrong_call_of_attention(attention: ort.InferenceSession, case: str) -> None:
    changes, text = WRONG_ATTENTION[case]
    before = attention.run(None, attention_feed())[0]
    with pytest.raises(Exception, match=rf"PagedFrameAttention.*: {text}"):
        attention.run(None, attention_feed() | changes)
    np.testing.assert_array_equal(attention.run(None, attention_feed())[0], before)


@pytest.mark.parametrize("case", WRONG_WRITE)
def test_a_wrong_call_of_write(write: ort.InferenceSession, case: str) -> None:
    changes, text = WRONG_WRITE[case]
    with pytest.raises(Exception, match=rf"PagedFrameWrite.*: {text}"):
        write.run(None, write_feed() | changes)
    np.testing.assert_array_equal(write.run(None, write_feed())[0], paged_frame_write(**write_feed()))


def test_bound_memory_is_untouched_after_an_error(attention: ort.InferenceSession, write: ort.InferenceSession) -> None:
    marks = np.full((B, T, H, D), 7, np.float32)
    binding, target = bind(attention, attention_feed() | WRONG_ATTENTION["negative age"][0], marks)
    with pytest.raises(Exception, match="slot_age"):
        attention.run_with_iobinding(binding)
    np.testing.assert_array_equal(target.numpy(), marks)

    pool = write_feed()["pool"]
    binding, target = bind(write, write_feed() | {"pool": pool, "slot": np.array([1, 1], np.int32)}, pool)
    with pytest.raises(Exception, match="slot"):
        write.run_with_iobinding(binding)
    np.testing.assert_array_equal(target.numpy(), write_feed()["pool"])


def test_write_changes_bound_memory_in_place_and_no_other(write: ort.InferenceSession) -> None:
    feed = write_feed()
    expected = paged_frame_write(**feed)
    np.testing.assert_array_equal(write.run(None, feed)[0], expected)
    np.testing.assert_array_equal(feed["pool"], write_feed()["pool"])
    binding, target = bind(write, feed, feed["pool"])
    write.run_with_iobinding(binding)
    np.testing.assert_array_equal(target.numpy(), expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [("scale", float("nan")), ("scale", float("inf")), ("scale", 0.0), ("scale", -0.3),
     ("scale", 1), ("temporal_dims", 3), ("temporal_dims", -2),
     ("temporal_dims", 2**40), ("temporal_dims", 4.0), ("theta", 0.0), ("theta", -1.0), ("theta", float("nan")),
     ("theta", 100)],
)  # fmt: skip
def test_a_wrong_attribute(name: str, value: float) -> None:
    with pytest.raises(Exception, match=name):
        load(PAGED_FRAME_ATTENTION, {**ATTRIBUTES, name: value})


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_a_missing_attribute(name: str) -> None:
    with pytest.raises(Exception, match=name):
        load(PAGED_FRAME_ATTENTION, {other: value for other, value in ATTRIBUTES.items() if other != name})


@pytest.mark.parametrize("operator", [PAGED_FRAME_ATTENTION, PAGED_FRAME_WRITE], ids=lambda operator: operator.name)
def test_a_model_that_does_not_fit_the_operator(operator: Operator) -> None:
    first, last = operator.inputs[0].name, operator.inputs[-1].name
    for types in ({first: TensorProto.DOUBLE}, {first: TensorProto.FLOAT16}, {last: TensorProto.INT64}):
        with pytest.raises(Exception, match=operator.name):
            load(operator, types=types)
    with pytest.raises(Exception, match=f"{operator.name}.*input size {len(operator.inputs) - 1}"):
        load(operator, inputs=[tensor.name for tensor in operator.inputs[:-1]])


def test_a_spoilt_session_spoils_no_other(attention: ort.InferenceSession) -> None:
    feed = attention_feed()
    good = attention.run(None, feed)[0]
    feed["query"][1] = np.nan
    feed["key_pool"][[1, 2]] = np.inf  # only session 1 looks at these slots
    feed["value_pool"][[1, 2]] = np.nan
    spoilt = attention.run(None, feed)[0]
    np.testing.assert_array_equal(spoilt[0], good[0])
    assert np.isnan(spoilt[1]).all()


def test_many_threads_and_one_session(attention: ort.InferenceSession) -> None:
    """Calls of several sizes, large enough that each is itself cut into tasks."""
    rng = np.random.default_rng(7)
    feeds: list[dict[str, Any]] = []
    for window in (1, 2, 3, 4):
        shapes = {"query": 1, "key": 1, "value": 1, "key_pool": S, "value_pool": S}
        feed: dict[str, Any] = {name: rng.normal(size=(n, 100, H, 32)).astype(np.float32) for name, n in shapes.items()}
        feed["slot_table"] = rng.integers(-1, S, (1, window)).astype(np.int32)
        feed["slot_age"] = rng.integers(0, 99, (1, window)).astype(np.int32)
        feeds.append(feed)
    alone = [attention.run(None, feed)[0] for feed in feeds]
    for feed, output in zip(feeds, alone, strict=True):
        np.testing.assert_allclose(output, paged_frame_attention(**feed, **ATTRIBUTES), atol=1e-5)
    with ThreadPoolExecutor(4) as pool:
        together = pool.map(lambda i: attention.run(None, feeds[i % 4])[0], range(80))
        for i, output in enumerate(together):
            np.testing.assert_array_equal(output, alone[i % 4])
