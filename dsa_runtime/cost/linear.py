"""Linear: the linear layers of one kind in a generator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Linear:
    """`count` layers of the same size."""

    part: str
    inputs: int
    outputs: int
    rows: Literal["token", "tick", "prompt"]
    """What it is applied to: every token of a tick, one vector per tick, or every token of a prompt (once)."""
    count: int = 1
    committed: int = 1
    """How many of them a commit applies."""
    bias: bool = True

    @property
    def parameters(self) -> int:
        return self.count * (self.inputs * self.outputs + self.bias * self.outputs)
