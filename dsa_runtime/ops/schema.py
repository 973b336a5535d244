"""The custom operators of domain `dsa`, version 1, as data, for kernels, exporters and tests."""

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
    """`float` stands for float32, float16 or bfloat16, the same for all tensors of one call."""
    shape: str


@dataclass(frozen=True)
class Attribute:
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
        Attribute("scale", "float", "factor of the scores; 1 / sqrt(D) unless stated"),
        Attribute("temporal_dims", "int", "leading dimensions of a head that are rotated by age; even, 0 for none"),
        Attribute("theta", "float", "base of the rotation frequencies"),
    ),
)

OPERATORS = (PAGED_FRAME_ATTENTION,)
