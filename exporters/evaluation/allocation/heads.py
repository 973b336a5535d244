"""Heads: the confidence heads of a training run, each with its own calibration, to be tried on the same generator."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from exporters.evaluation.trained import TrainedWorld

PAPER = "joint-residual"
"""The head that the paper trains: in the distillation, on the teacher's residual."""
KEPT = "kept"
"""The head that a training keeps, whichever that is; so is a generator's own called where a checkpoint has no name."""


@dataclass(frozen=True)
class Head:
    """A confidence head, and the WorldSpec's calibration table for it."""

    name: str
    module: nn.Module
    calibration: Mapping[str, Any]


@dataclass(frozen=True)
class Heads:
    """All heads of a run by name, and the name of the one that its package carries."""

    by_name: Mapping[str, Head]
    kept: str

    @property
    def best(self) -> Head:
        """The kept head."""
        return self.by_name[self.kept]

    def name_of(self, name: str) -> str:
        """`name`, or the kept head's for `KEPT`."""
        return self.kept if name == KEPT else name

    @property
    def papers(self) -> Head:
        """The one that the paper's rule asks: trained as in the paper, or the kept one where there is no such head."""
        return self.by_name.get(PAPER, self.best)


class AllHeads(nn.Module):
    """Several heads read side by side."""

    def __init__(self, heads: Sequence[Head]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(head.module for head in heads)

    def forward(self, taps: list[Tensor], condition: Tensor) -> Tensor:
        """Logits float32[B, heads]."""
        return torch.stack([head(taps, condition) for head in self.heads], dim=1)


def heads_of(trained: TrainedWorld, calibration: Mapping[str, Any]) -> Heads:
    """All heads of a finished run. A stage's checkpoint has the generator's own only, with `calibration`."""
    if not trained.heads or trained.kept is None:
        own = Head(KEPT, trained.generator.confidence, calibration)
        return Heads({KEPT: own}, KEPT)
    heads = {name: Head(name, module, trained.calibrations[name]) for name, module in trained.heads.items()}
    return Heads(heads, trained.kept)


def with_head(trained: TrainedWorld, head: nn.Module) -> TrainedWorld:
    """The same world with another confidence head; everything else is shared."""
    generator = copy.copy(trained.generator)
    generator._modules = {**trained.generator._modules, "confidence": head}
    return replace(trained, generator=generator)
