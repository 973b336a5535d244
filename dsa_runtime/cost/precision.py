"""Precision: in what numbers a generator computes and keeps its weights and its cache."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Precision:
    """Bytes of a value, and the rates of a device that apply."""

    name: str
    linear: str
    """Key of `Device.flops` for linear layers."""
    other: str
    """... for attention and convolutions, which are not computed in 8 bits."""
    weight_bytes: int
    """Of a value of a linear layer's weights; a decoder's have `value_bytes`."""
    value_bytes: int
    """Of a value between layers, in the cache and in a decoder's state."""


PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("bf16", "bf16", "bf16", 2, 2),
        Precision("fp16", "fp16", "fp16", 2, 2),
        Precision("fp8", "fp8", "bf16", 1, 2),
        Precision("fp32", "fp32", "fp32", 4, 4),
    )
}
