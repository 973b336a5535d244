"""The custom operators in torch: opaque to its tracing, one node of domain `dsa` each in ONNX.

In torch they compute what `dsa_runtime.ops.reference` defines. Nothing is registered with torch or onnx before it is
asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import onnx
import onnxscript
import torch
from torch import Tensor

from dsa_runtime.ops.schema import DOMAIN, OPERATORS, VERSION, Operator
from exporters.model import attention

_ATTENTION_SIGNATURE = (
    "(Tensor query, Tensor key, Tensor value, Tensor key_pool, Tensor value_pool, Tensor slot_table, "
    "Tensor slot_age, float scale, int temporal_dims, float theta) -> Tensor"
)
_WRITE_SIGNATURE = "(Tensor frame, Tensor pool, Tensor slot) -> Tensor"


def paged_frame_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_pool: Tensor,
    value_pool: Tensor,
    slot_table: Tensor,
    slot_age: Tensor,
    temporal_dims: int,
    theta: float,
) -> Tensor:
    """`attention.paged_attention` behind the operator that `translation_table` knows; same arguments and result."""
    scale = query.shape[-1] ** -0.5
    result: Tensor = _attention()(
        query, key, value, key_pool, value_pool, slot_table, slot_age, scale, temporal_dims, theta
    )
    return result


def paged_frame_write(frame: Tensor, pool: Tensor, slot: Tensor) -> Tensor:
    """`dsa_runtime.ops.reference.paged_frame_write` of tensors, behind an operator as well; `pool` is not changed."""
    result: Tensor = _write()(frame, pool, slot)
    return result


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """`custom_translation_table` of `torch.onnx.export`."""
    for operator in OPERATORS:
        _register_schema(operator)
    return {_attention(): _translate_attention, _write(): _translate_write}


@functools.cache
def _attention() -> Any:
    def compute(
        query: Tensor, key: Tensor, value: Tensor, key_pool: Tensor, value_pool: Tensor,
        slot_table: Tensor, slot_age: Tensor, scale: float, temporal_dims: int, theta: float,
    ) -> Tensor:  # fmt: skip
        # paged_attention scales by 1 / sqrt(head_dim); bring the query to the scale asked for.
        query = query * (scale * query.shape[-1] ** 0.5)
        return attention.paged_attention(
            query, key, value, key_pool, value_pool, slot_table, slot_age, temporal_dims, theta
        ).contiguous()

    name = "dsa::paged_frame_attention"
    operator = torch.library.custom_op(name, compute, mutates_args=(), schema=_ATTENTION_SIGNATURE)
    operator.register_fake(lambda query, *_: torch.empty_like(query, memory_format=torch.contiguous_format))
    return torch.ops.dsa.paged_frame_attention.default


@functools.cache
def _write() -> Any:
    def compute(frame: Tensor, pool: Tensor, slot: Tensor) -> Tensor:
        written = pool.clone()
        written[slot[slot >= 0].long()] = frame[slot >= 0]
        return written

    operator = torch.library.custom_op("dsa::paged_frame_write", compute, mutates_args=(), schema=_WRITE_SIGNATURE)
    operator.register_fake(lambda frame, pool, slot: torch.empty_like(pool))
    return torch.ops.dsa.paged_frame_write.default


def _translate_attention(
    query: Any, key: Any, value: Any, key_pool: Any, value_pool: Any, slot_table: Any, slot_age: Any,
    scale: float, temporal_dims: int, theta: float,
) -> Any:  # fmt: skip
    return onnxscript.values.Opset(DOMAIN, VERSION).PagedFrameAttention(
        query, key, value, key_pool, value_pool, slot_table, slot_age,
        scale=scale, temporal_dims=temporal_dims, theta=theta,
    )  # fmt: skip


def _translate_write(frame: Any, pool: Any, slot: Any) -> Any:
    return onnxscript.values.Opset(DOMAIN, VERSION).PagedFrameWrite(frame, pool, slot)


def _register_schema(operator: Operator) -> None:
    """Make the operator known to onnx, without which onnxscript refuses to build its node."""
    if onnx.defs.has(operator.name, DOMAIN):
        return
    constraint = {"float": "F", "int32": "I"}
    parameters = [
        [onnx.defs.OpSchema.FormalParameter(tensor.name, constraint[tensor.dtype]) for tensor in tensors]
        for tensors in (operator.inputs, operator.outputs)
    ]
    kinds = {"float": onnx.defs.OpSchema.AttrType.FLOAT, "int": onnx.defs.OpSchema.AttrType.INT}
    onnx.defs.register_schema(
        onnx.defs.OpSchema(
            operator.name,
            DOMAIN,
            VERSION,
            inputs=parameters[0],
            outputs=parameters[1],
            type_constraints=[
                ("F", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], "keys, values and queries"),
                ("I", ["tensor(int32)"], "tables"),
            ],
            attributes=[
                onnx.defs.OpSchema.Attribute(a.name, kinds[a.kind], a.meaning, required=False)
                for a in operator.attributes
            ],
        )
    )
