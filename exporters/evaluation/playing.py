"""Playing: batches of rollouts from real contexts, under any rule of how many denoising steps a frame gets.

The noise is keyed by (seed, tick, step) and by nothing else, so that all rules meet the same noise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Container
from dataclasses import dataclass

import torch
from torch import Tensor

from exporters.evaluation.cases import Cases
from exporters.evaluation.trained import TrainedWorld
from exporters.model.flow import add_noise
from exporters.model.generator import Context
from exporters.model.rollout import Estimate, denoise_frame, warm_context


@dataclass(frozen=True)
class TickView:
    """What a rule is shown of one tick: all K estimates."""

    tick: int
    estimates: list[Estimate]
    previous: Tensor
    """float32[B, C, h, w]: the last committed frame."""


Policy = Callable[[TickView], Tensor]
"""Decides a tick of a batch: the steps int64[B] each frame gets, 1..K."""


class OnlinePolicy(ABC):
    """A rule that runs at play: asked after each step whether a frame goes on. Steps it does not want are not run."""

    @abstractmethod
    def goes_on(self, tick: int, step: int, logit: Tensor, rows: Tensor) -> Tensor:
        """bool[n]: whether frames go on after `step` steps (from 1), the last of which gave logit float32[n].

        rows: int64[n], their places in the batch.
        """

    def finish(self, logit: Tensor) -> None:
        """The tick is over; logit float32[B] of each frame's last step."""
        return

    def __call__(self, view: TickView) -> Tensor:
        """The same decisions about a tick of which all steps have been run."""
        logits = torch.stack([estimate.logit for estimate in view.estimates], dim=1)
        rows = torch.arange(len(logits))
        steps = torch.ones_like(rows)
        for step in range(1, logits.shape[1]):
            rows = rows[self.goes_on(view.tick, step, logits[rows, step - 1], rows)]
            steps[rows] = step + 1
        self.finish(logits.gather(1, (steps - 1).unsqueeze(1)).squeeze(1))
        return steps


@dataclass(frozen=True)
class Played:
    """latents float32[B, N, C, h, w] as committed; full: of the same tick, after all its steps; steps int64[B, N].

    `full` is NaN at ticks for which it was not asked, and which did not need all steps.
    """

    latents: Tensor
    full: Tensor
    steps: Tensor


class Player:
    """A batch of rollouts in step with each other, a tick at a time."""

    def __init__(self, trained: TrainedWorld, cases: Cases, seed: int, context: Context | None = None) -> None:
        """Starts after the cases' contexts; `context` is what `warm` has made of them, if it was called before."""
        self._trained, self._seed, self._tick = trained, seed, 0
        self._context = warm(trained, cases) if context is None else context
        self._previous = cases.latents[:, -1]

    @torch.inference_mode()
    def step(self, action: Tensor, policy: Policy | None = None, steps: int | None = None, full: bool = True) -> Played:
        """One tick under action[B, A], as a `Played` of N = 1.

        `policy` decides after the first `steps` (default: all) steps have been run; without it all of them count.
        Without `full`, an `OnlinePolicy` gets no more than it asks for.
        """
        if isinstance(policy, OnlinePolicy) and not full:
            chosen, taken = self._online(action, policy)
            everything = torch.full_like(chosen, torch.nan)
        else:
            levels = self._trained.levels[:steps]
            everything, taken, estimates = denoise_frame(
                self._trained.generator, levels, action, self._context, self._noise
            )
            chosen = everything
            if policy is not None:
                taken = policy(TickView(self._tick, estimates, self._previous))
                chosen = torch.stack([e.clean for e in estimates], 1)[torch.arange(len(taken)), taken - 1]
        self._context = self._trained.generator.commit(chosen, chosen.new_zeros(len(chosen)), action, self._context)
        self._previous = chosen
        self._tick += 1
        return Played(chosen.unsqueeze(1), everything.unsqueeze(1), taken.unsqueeze(1))

    def _online(self, action: Tensor, policy: OnlinePolicy) -> tuple[Tensor, Tensor]:
        """Chosen estimates float32[B, C, h, w] and steps int64[B]; only frames that go on are denoised again."""
        generator, levels = self._trained.generator, self._trained.levels
        rows = torch.arange(len(action))
        context, noisy = self._context, self._noise(0)
        chosen, taken = torch.empty_like(noisy), torch.ones_like(rows)
        last = noisy.new_empty(len(rows))
        for step, value in enumerate(levels, start=1):
            level = noisy.new_full((len(rows),), value)
            clean, taps, condition = generator.denoise(noisy, level, action[rows], context)
            logit = generator.confidence(taps, condition)
            chosen[rows], taken[rows], last[rows] = clean, step, logit
            if step == len(levels):
                break
            more = policy.goes_on(self._tick, step, logit, rows)
            if not more.any():
                break
            rows = rows[more]
            if not more.all():
                context = _rows(context, more)
            noisy = add_noise(clean[more], self._noise(step)[rows], noisy.new_full((len(rows),), levels[step]))
        policy.finish(last)
        return chosen, taken

    def _noise(self, step: int) -> Tensor:
        return torch.randn(tuple(self._previous.shape), generator=_keyed(self._seed, self._tick, step))


@torch.inference_mode()
def warm(trained: TrainedWorld, cases: Cases) -> Context:
    """The cases' real frames, committed. The same for every rule and seed."""
    return warm_context(trained.generator, cases.latents, cases.actions[:, : cases.window])


def play(
    trained: TrainedWorld,
    cases: Cases,
    seed: int,
    policy: Policy | None = None,
    *,
    steps: int | None = None,
    on_tick: Callable[[], object] | None = None,
    context: Context | None = None,
    full_at: Container[int] | None = None,
) -> Played:
    """Play the cases' actions over their horizon. `steps` alone: exactly that many steps per frame.

    `full_at`: the ticks (from 0) whose full schedule is wanted beside an `OnlinePolicy`; default: all.
    """
    player = Player(trained, cases, seed, context)
    ticks = []
    for tick in range(cases.horizon):
        full = full_at is None or tick in full_at
        ticks.append(player.step(cases.actions[:, cases.window + tick], policy, steps, full))
        if on_tick is not None:
            on_tick()
    parts = zip(*((t.latents, t.full, t.steps) for t in ticks), strict=True)
    return Played(*(torch.cat(part, dim=1) for part in parts))


def _rows(context: Context, keep: Tensor) -> Context:
    """The context of the rollouts where bool[B] `keep` is True."""
    return Context(tuple(keys[keep] for keys in context.keys), tuple(values[keep] for values in context.values))


def _keyed(seed: int, tick: int, step: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1_000_003 + tick) * 1_009 + step)
