"""Playing: batches of rollouts from real contexts, under any rule of how many denoising steps a frame gets.

The noise is keyed by (seed, tick, step) and by nothing else, so that all rules meet the same noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..model.rollout import Estimate, denoise_frame, warm_context
from .cases import Cases
from .trained import TrainedWorld


@dataclass(frozen=True)
class TickView:
    """What a rule is shown of one tick: all K estimates. A rule that could run at play reads them one by one."""

    tick: int
    estimates: list[Estimate]
    previous: Tensor
    """float32[B, C, h, w]: the last committed frame."""


Policy = Callable[[TickView], Tensor]
"""Decides a tick of a batch: the steps int64[B] each frame gets, 1..K."""


@dataclass(frozen=True)
class Played:
    """latents float32[B, N, C, h, w] as committed; full: of the same tick, after all its steps; steps int64[B, N]."""

    latents: Tensor
    full: Tensor
    steps: Tensor


class Player:
    """A batch of rollouts in step with each other, a tick at a time."""

    def __init__(self, trained: TrainedWorld, cases: Cases, seed: int) -> None:
        """Starts after the cases' contexts."""
        self._trained, self._seed, self._tick = trained, seed, 0
        with torch.inference_mode():
            context_actions = cases.actions[:, : cases.window]
            self._context = warm_context(trained.generator, cases.latents, context_actions)
        self._previous = cases.latents[:, -1]

    @torch.inference_mode()
    def step(self, action: Tensor, policy: Policy | None = None, steps: int | None = None) -> Played:
        """One tick under action[B, A], as a `Played` of N = 1.

        `policy` decides after the first `steps` (default: all) steps have been run; without it all of them count.
        """
        trained, generator = self._trained, self._trained.generator
        levels = trained.levels[:steps]
        shape = tuple(self._previous.shape)

        def noise(step: int) -> Tensor:
            return torch.randn(shape, generator=_keyed(self._seed, self._tick, step))

        full, taken, estimates = denoise_frame(generator, levels, action, self._context, noise)
        chosen = full
        if policy is not None:
            taken = policy(TickView(self._tick, estimates, self._previous))
            chosen = torch.stack([e.clean for e in estimates], 1)[torch.arange(len(taken)), taken - 1]
        self._context = generator.commit(chosen, chosen.new_zeros(len(chosen)), action, self._context)
        self._previous = chosen
        self._tick += 1
        return Played(chosen.unsqueeze(1), full.unsqueeze(1), taken.unsqueeze(1))


def play(
    trained: TrainedWorld,
    cases: Cases,
    seed: int,
    policy: Policy | None = None,
    *,
    steps: int | None = None,
    on_tick: Callable[[], object] | None = None,
) -> Played:
    """Play the cases' actions over their horizon. `steps` alone: exactly that many steps per frame."""
    player = Player(trained, cases, seed)
    ticks = []
    for tick in range(cases.horizon):
        ticks.append(player.step(cases.actions[:, cases.window + tick], policy, steps))
        if on_tick is not None:
            on_tick()
    parts = zip(*((t.latents, t.full, t.steps) for t in ticks), strict=True)
    return Played(*(torch.cat(part, dim=1) for part in parts))


def _keyed(seed: int, tick: int, step: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1_000_003 + tick) * 1_009 + step)
