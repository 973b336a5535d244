"""Episode: one session as Gymnasium sees it, alone or as one of many."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded

from ..arguments import check_budget, check_count, check_steps
from ..session import Session
from ..tick import Tick
from ..world import World

_MOST_SEED = 1 << 62
"""Below what a session takes, so that infos of a vector environment can hold it as an integer."""


@dataclass(frozen=True)
class EpisodeConfig:
    """How an episode's frames are drawn."""

    budget_ms: float | None = None
    """Wall time per step; None for no clock at all: the confidence alone decides, so the same seed and actions draw
    the same frames."""
    threshold: float | None = None
    """Confidence that is enough; None for the world's."""
    steps: int | None = None
    """Exactly this many denoising steps per frame, whatever confidence and budget; None for the world's choice."""

    def check(self, schedule_steps: int) -> None:
        """Raise `BudgetError` for what no session would take. The threshold is checked by the session."""
        if self.budget_ms is not None:
            check_budget(self.budget_ms)
        if self.steps is not None:
            check_steps(self.steps, schedule_steps)


class Episode:
    """A session, and the observation it is at: a picture, or all those of a tick where it has several."""

    def __init__(self, world: World, session: Session, config: EpisodeConfig) -> None:
        """Takes over the session."""
        self.session, self._contexts, self._config = session, world.contexts, config
        frame = world.spec.frame
        self._pictures = frame.frames_per_tick
        self.frame = np.zeros(frame.shape if self._pictures == 1 else frame.tick_shape, np.uint8)
        """The newest observation, for reading. After a reset it is one picture throughout."""
        self._begun = False

    @property
    def picture(self) -> np.ndarray:
        """The newest one, `uint8[H, W, 3]`, for reading."""
        return self.frame if self._pictures == 1 else self.frame[-1]

    def check(self, seed: int | None, options: dict[str, Any] | None) -> None:
        """Raise `SessionError` for what `reset` would refuse."""
        if seed is not None:
            check_count("seed", seed, 0, _MOST_SEED)
        self._context(options)

    def reset(self, seed: int | None, rng: np.random.Generator, options: dict[str, Any] | None) -> dict[str, Any]:
        """Start over; returns the `info`.

        seed      as for `Session.reset`; None for one drawn from `rng`
        options   `{"context": k}` to start from start context k of the world; the seed then keys the noise only
        """
        context = self._context(options)
        seed = int(rng.integers(_MOST_SEED)) if seed is None else check_count("seed", seed, 0, _MOST_SEED)
        if context is not None:
            seed = seed // self._contexts * self._contexts + context
        picture = self.session.reset(seed)
        self.frame = picture if self._pictures == 1 else np.repeat(picture[np.newaxis], self._pictures, axis=0)
        self._begun = True
        return {"seed": seed, "context": seed % self._contexts}

    def _context(self, options: dict[str, Any] | None) -> int | None:
        context = (options or {}).get("context")
        if context is None:
            return None
        return check_count("options['context']", context, 0, self._contexts - 1, "the world has no more contexts")

    def step(self, action: Any) -> Tick:
        """Draw the next frame. Raises as `Session.step`, and is then as before."""
        if not self._begun:
            raise ResetNeeded("step: call reset() first")
        budget_ms = math.inf if self._config.budget_ms is None else self._config.budget_ms
        return self.session.step(action, budget_ms, steps=self._config.steps)

    def arrive(self, tick: Tick) -> dict[str, Any]:
        """Go on from this tick's frame; returns the `info`."""
        self.frame = tick.pixels if self._pictures == 1 else tick.frames
        info: dict[str, Any] = {
            "tick": tick.tick,
            "steps": tick.steps,
            "confidence": tick.confidence,
            "threshold": math.nan if tick.threshold is None else tick.threshold,
            "stopped_by": tick.stopped_by,
            "status": tick.status,
        }
        if self._config.budget_ms is not None:  # without a budget an info is as repeatable as the frame
            info |= {"slack_ms": tick.slack_ms, "total_ms": tick.latency_ms["total"]}
        return info
