"""Cost: work, as operations and as bytes that go through memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Arithmetic = Literal["linear", "attention", "convolution", "none"]
"""What a part spends its operations on; devices reach a different share of their peak in each."""


@dataclass(frozen=True)
class Cost:
    """One part of a stage. Additions, norms and the like count no operations: their bytes decide."""

    part: str
    arithmetic: Arithmetic
    flops: float
    """A multiplication with its addition counts 2."""
    weight_bytes: float
    cache_bytes: float
    """Of committed ticks and of the prompt, and of a decoder's state."""
    activation_bytes: float
    """Written by one kernel and read by another."""
    kernels: int

    @property
    def bytes(self) -> float:
        return self.weight_bytes + self.cache_bytes + self.activation_bytes


def total(costs: Iterable[Cost], part: str = "all") -> Cost:
    """The sum; `arithmetic` is that of the part with the most operations. Raises ValueError if there is none."""
    every = list(costs)
    return Cost(
        part,
        max(every, key=lambda cost: cost.flops).arithmetic,
        sum(cost.flops for cost in every),
        sum(cost.weight_bytes for cost in every),
        sum(cost.cache_bytes for cost in every),
        sum(cost.activation_bytes for cost in every),
        sum(cost.kernels for cost in every),
    )
