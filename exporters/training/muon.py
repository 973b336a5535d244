"""Muon: momentum whose matrix updates are orthogonalised."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from exporters.training.sharding import gathered, slice_as


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """Push the singular values of float[m, n] towards 1 by a quintic Newton-Schulz iteration (Jordan et al. 2024)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Muon(torch.optim.Optimizer):
    """Muon in the parameters' own precision.

    `torch.optim.Muon` iterates in bfloat16, which a CPU without matrix units emulates at a quarter of float32's speed:
    there it took longer than the model (LOG.md). The update's root mean square is 0.2 * lr, as AdamW's is, so that both
    can share one learning rate.

    An orthogonal matrix has no independent slices: of sharded weights (`sharding`) every rank gathers the momentum,
    one matrix at a time, iterates on the whole and applies its own slice.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                buffer = state["momentum"].lerp_(p.grad, 1.0 - group["momentum"])
                update = slice_as(orthogonalise(gathered(p.grad.lerp(buffer, group["momentum"]))), p)
                p.mul_(1.0 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * 0.2 * max(p.shape) ** 0.5)
