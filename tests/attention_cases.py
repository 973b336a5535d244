"""Random calls of PagedFrameAttention, the operator as a model of one node, and how far its results are off.

As a program it prints the worst relative errors of the operator library on the CPU, as JSON, so that a test can run it
with an instruction set forced by the environment.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from dsa_runtime.ops.library import find
from dsa_runtime.ops.reference import paged_frame_attention
from dsa_runtime.ops.schema import DOMAIN, PAGED_FRAME_ATTENTION, VERSION

LIMITS = {"float32": 1e-5, "float16": 2e-3, "float32 with float16 pools": 1e-5}
"""Largest error allowed, relative to the largest value of the float64 result."""
_TYPES = {
    "float32": (np.float32, np.float32),
    "float16": (np.float16, np.float16),
    "float32 with float16 pools": (np.float32, np.float16),
}
_ELEMENTS = {np.float32: TensorProto.FLOAT, np.float16: TensorProto.FLOAT16}


@dataclass(frozen=True)
class Case:
    """Sizes and attributes of one call; B sessions, T tokens, H heads, D head width, S slots, W window."""

    batch: int
    tokens: int
    heads: int
    head_dim: int
    slots: int
    window: int
    filled: float
    """Share of the table that is not empty."""
    temporal_dims: int
    seed: int
    scale: float = 0.3
    theta: float = 30.0

    @property
    def attributes(self) -> dict[str, Any]:
        return {"scale": self.scale, "temporal_dims": self.temporal_dims, "theta": self.theta}

    def inputs(self, dtype: type, pool_dtype: type) -> dict[str, np.ndarray]:
        """Ages are out of order and partly in the thousands; slots repeat."""
        rng = np.random.default_rng(self.seed)
        frame = (self.batch, self.tokens, self.heads, self.head_dim)
        arrays = {name: rng.normal(size=frame).astype(dtype) for name in ("query", "key", "value")}
        pool = (self.slots, *frame[1:])
        arrays |= {name: rng.normal(size=pool).astype(pool_dtype) for name in ("key_pool", "value_pool")}
        shape = (self.batch, self.window)
        table = np.where(rng.random(shape) < self.filled, rng.integers(0, max(self.slots, 1), shape), -1)
        age = np.where(rng.random(shape) < 0.2, rng.integers(1, 10_000, shape), rng.integers(1, 100, shape))
        arrays["slot_table"] = table.astype(np.int32) if self.slots else np.full(shape, -1, np.int32)
        return arrays | {"slot_age": age.astype(np.int32)}


CORNERS = (
    Case(1, 1, 1, 32, 1, 1, 1.0, 0, 1),
    Case(16, 1, 2, 32, 9, 64, 0.7, 16, 2),
    Case(2, 16, 4, 64, 20, 64, 1.0, 16, 3),
    Case(1, 64, 6, 32, 8, 8, 1.0, 16, 4),
    Case(3, 65, 2, 64, 5, 4, 0.5, 64, 5),
    Case(1, 256, 1, 128, 3, 3, 1.0, 32, 6),
    Case(1, 2048, 1, 32, 2, 2, 1.0, 16, 7),
    Case(2, 130, 1, 12, 4, 6, 0.6, 6, 8),
    Case(2, 7, 3, 4, 3, 0, 0.0, 4, 9),
    Case(2, 33, 1, 8, 0, 3, 0.0, 2, 10),
    Case(1, 16, 2, 5, 4, 5, 1.0, 4, 11),
)


def random_cases(count: int, seed: int = 0) -> Iterator[Case]:
    """Cases of any size that a second affords."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        head_dim = int(rng.choice([4, 8, 16, 24, 32, 64, 80, 128]))
        yield Case(
            batch=int(rng.integers(1, 6)),
            tokens=int(rng.choice([1, 2, 3, 8, 15, 16, 17, 31, 48, 63, 64, 100])),
            heads=int(rng.integers(1, 4)),
            head_dim=head_dim,
            slots=int(rng.integers(1, 9)),
            window=int(rng.integers(0, 12)),
            filled=float(rng.random()),
            temporal_dims=int(rng.integers(0, head_dim // 2 + 1)) * 2,
            seed=index,
        )


def one_node(case: Case, dtype: type = np.float32, pool_dtype: type = np.float32) -> onnx.ModelProto:
    """The operator alone; all sizes are free."""
    kinds = {"query": dtype, "key": dtype, "value": dtype, "key_pool": pool_dtype, "value_pool": pool_dtype}
    inputs = [
        helper.make_tensor_value_info(
            tensor.name, _ELEMENTS.get(kinds.get(tensor.name, np.int32), TensorProto.INT32), tensor.shape.split()
        )
        for tensor in PAGED_FRAME_ATTENTION.inputs
    ]
    names = [tensor.name for tensor in PAGED_FRAME_ATTENTION.inputs]
    node = helper.make_node(PAGED_FRAME_ATTENTION.name, names, ["output"], domain=DOMAIN, **case.attributes)
    output = helper.make_tensor_value_info("output", _ELEMENTS[dtype], list("BTHD"))
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, VERSION)]
    return helper.make_model(helper.make_graph([node], "one", inputs, [output]), opset_imports=opsets, ir_version=10)


def open_session(model: onnx.ModelProto, threads: int = 1) -> ort.InferenceSession:
    """A session that knows the operators. Raises `LibraryMissing`."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.register_custom_ops_library(find().path)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(case: Case, inputs: dict[str, np.ndarray], threads: int = 1) -> np.ndarray:
    """What the operator library makes of the inputs."""
    model = one_node(case, inputs["query"].dtype.type, inputs["key_pool"].dtype.type)
    output: np.ndarray = open_session(model, threads).run(None, inputs)[0]
    return output


def error(case: Case, inputs: dict[str, np.ndarray], output: np.ndarray) -> float:
    """Largest difference from the reference in float64, relative to its largest value."""
    exact = {name: a if a.dtype == np.int32 else a.astype(np.float64) for name, a in inputs.items()}
    attributes = case.attributes | {name: float(np.float32(getattr(case, name))) for name in ("scale", "theta")}
    reference = paged_frame_attention(**exact, **attributes)
    return float(np.abs(output.astype(np.float64) - reference).max() / np.abs(reference).max())


def worst(kind: str, compute: Callable[[Case, dict[str, np.ndarray]], np.ndarray], count: int) -> float:
    """The largest error over the corners and `count` random cases, with elements as `LIMITS` names them."""
    errors = []
    for case in (*CORNERS, *random_cases(count)):
        inputs = case.inputs(*_TYPES[kind])
        errors.append(error(case, inputs, compute(case, inputs)))
    return float(np.max(errors))  # which keeps a NaN, as max() would not


def spreads(name: str, value: float) -> bool:
    """Whether one NaN or infinity in this input leaves the same numbers finite as in the reference."""
    case = Case(1, 20, 2, 32, 3, 3, 1.0, 8, 3)
    inputs = case.inputs(np.float32, np.float32)
    inputs["slot_table"][:] = [[2, 0, 1]]
    inputs[name][-1, 7, 0, 5] = value
    with np.errstate(invalid="ignore"):
        reference = paged_frame_attention(**inputs, **case.attributes)
    finite = np.isfinite(reference)
    assert not finite.all() or np.isinf(value), "the case shows nothing"
    return bool((np.isfinite(run(case, inputs)) == finite).all())


if __name__ == "__main__":
    tensors, values = ("query", "key", "value", "key_pool", "value_pool"), (np.nan, np.inf, -np.inf)
    assert all(spreads(name, value) for name in tensors for value in values), "NaN or infinity was lost"
    found = {kind: worst(kind, lambda case, inputs: run(case, inputs, threads=2), 60) for kind in LIMITS}
    print(json.dumps({"instruction_set": find().instruction_set, "errors": found}))
