"""Optimizers: Muon for the transformer's matrices, AdamW for everything else."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from exporters.training.muon import Muon


class Optimizers:
    """A group of optimizers stepped and saved as one."""

    def __init__(self, members: list[torch.optim.Optimizer]) -> None:
        self.members = members

    def zero_grad(self) -> None:
        for member in self.members:
            member.zero_grad(set_to_none=True)

    def step(self, factor: float) -> None:
        """Step with every learning rate at `factor` times its initial value."""
        for member in self.members:
            for group in member.param_groups:
                group.setdefault("initial_lr", group["lr"])
                group["lr"] = group["initial_lr"] * factor
            member.step()

    def state_dict(self) -> dict[str, object]:
        return {str(i): member.state_dict() for i, member in enumerate(self.members)}

    def load_state_dict(self, state: dict[str, dict[str, object]]) -> None:
        for i, member in enumerate(self.members):
            member.load_state_dict(state[str(i)])


def recipe_settings(part: Any) -> list[list[dict[str, Any]]]:
    """The settings of the groups of an optimizer or of `Optimizers`, without the parameters; empty for other parts."""
    members = part.members if isinstance(part, Optimizers) else [part]
    return [
        [{key: value for key, value in group.items() if key != "params"} for group in member.param_groups]
        for member in members
        if isinstance(member, torch.optim.Optimizer)
    ]


def restore_settings(part: Any, settings: list[list[dict[str, Any]]]) -> None:
    """Put the recipe's settings back after a state was loaded, which brings those that it was saved with."""
    members = part.members if isinstance(part, Optimizers) else [part]
    for member, groups in zip(members, settings, strict=False):
        for group, recipe in zip(member.param_groups, groups, strict=True):
            group.update(recipe)
            group["initial_lr"] = recipe.get("initial_lr", recipe["lr"])


def transformer_optimizers(
    model: nn.Module, learning_rate: float, betas: tuple[float, float] = (0.9, 0.98), weight_decay: float = 0.01
) -> Optimizers:
    """Muon (Jordan et al. 2024) on the blocks' attention and MLP matrices, AdamW on the rest.

    Muon's update is scaled to AdamW's root mean square, so one learning rate serves both.
    """
    matrices = [
        p for name, p in model.named_parameters() if p.dim() == 2 and "blocks." in name and "modulation" not in name
    ]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    adam = torch.optim.AdamW(rest, lr=learning_rate, betas=betas, weight_decay=weight_decay)
    muon = Muon(matrices, lr=learning_rate, weight_decay=weight_decay)
    return Optimizers([muon, adam])
