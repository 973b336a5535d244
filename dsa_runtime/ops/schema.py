"""The custom operators of domain `dsa`, version 1, as data, for kernels, exporters and tests.

An entry of `slot_table` and `slot` is -1, for none, or a slot of the pool, 0..S-1; the age of a slot is at least 0. On
the CPU anything else is an error, raised before anything is computed or written. On a GPU, where the tables lie in
device memory, a session with another entry gets NaN, and nothing is read or written out of bounds. The plain ONNX form
does not check: it takes every negative entry for empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DOMAIN = "dsa"
VERSION = 1


@dataclass(frozen=True)
class Tensor:
    """One input or output: its element type and its shape, with one letter per free dimension."""

    name: str
    dtype: Literal["float", "int32"]
    """`float` stands for float32, float16 or bfloat16 (CUDA only), the same for all tensors of one call; on the CPU the
    pools of float32 attention may be float16."""
    shape: str


@dataclass(frozen=True)
class Attribute:
    """One attribute; all are required."""

    name: str
    kind: Literal["float", "int"]
    meaning: str


@dataclass(frozen=True)
class Operator:
    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    attributes: tuple[Attribute, ...]


PAGED_FRAME_ATTENTION = Operator(
    name="PagedFrameAttention",
    inputs=(
        Tensor("query", "float", "B T H D"),
        Tensor("key", "float", "B T H D"),
        Tensor("value", "float", "B T H D"),
        Tensor("key_pool", "float", "S T H D"),
        Tensor("value_pool", "float", "S T H D"),
        Tensor("slot_table", "int32", "B W"),
        Tensor("slot_age", "int32", "B W"),
    ),
    outputs=(Tensor("output", "float", "B T H D"),),
    attributes=(
        Attribute("scale", "float", "factor of the scores, positive; usually 1 / sqrt(D)"),
        Attribute("temporal_dims", "int", "leading dimensions of a head that are rotated by age; even, 0 for none"),
        Attribute("theta", "float", "base of the rotation frequencies, positive"),
    ),
)

PAGED_FRAME_WRITE = Operator(
    name="PagedFrameWrite",
    inputs=(
        Tensor("frame", "float", "B T H D"),
        Tensor("pool", "float", "S T H D"),
        Tensor("slot", "int32", "B"),
    ),
    outputs=(Tensor("written", "float", "S T H D"),),
    attributes=(),
)

OPERATORS = (PAGED_FRAME_ATTENTION, PAGED_FRAME_WRITE)
