"""Players for Gymnasium environments: one that holds random actions, and the user's own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from .environment import Observation
from .gymnasium_actions import ActionMap
from .gymnasium_world import GymnasiumConfig, GymnasiumWorld
from .lookup import lookup
from .policies import MixedPolicy, Policy

RANDOM = "random"
_SEGMENT_STEPS = (30, 120)


class HeldRandomPolicy:
    """Holds a random action for a random time: what changes at every step moves nothing very far.

    Of a Box's components a quarter is held at rest (zero, or the middle) and a quarter at an end, as keys would.
    """

    name = RANDOM

    def __init__(self, space: Mapping[str, Any], mean_hold_steps: float) -> None:
        """`space`: as in a dataset."""
        self._space = space
        self._chance = min(1.0, 1.0 / mean_hold_steps)

    def begin(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._left_steps = 0

    def act(self, observation: Observation) -> Any:
        """An action in the form that a dataset has."""
        if self._left_steps == 0:
            self._action = self._draw()
            self._left_steps = int(self._rng.geometric(self._chance))
        self._left_steps -= 1
        return self._action

    def _draw(self) -> Any:
        if self._space["type"] == "Discrete":
            return int(self._rng.integers(self._space["n"]))
        if self._space["type"] == "MultiBinary":
            return self._rng.integers(0, 2, self._space["n"]).astype(np.uint8)
        low, high = (np.asarray(self._space[bound]) for bound in ("low", "high"))
        rest = np.where((low < 0) & (high > 0), 0.0, (low + high) / 2)
        end = np.where(self._rng.random(len(low)) < 0.5, low, high)
        kind = self._rng.random(len(low))
        drawn = np.where(kind < 0.25, rest, np.where(kind < 0.5, end, self._rng.uniform(low, high)))
        return np.clip(drawn.astype(np.float32), low.astype(np.float32), high.astype(np.float32))


class OwnPolicy:
    """Calls a function of the user's with (the environment's own observation, a random generator).

    It returns an action of the environment's. Where "module:name" names a class, one is made, without arguments, for
    each segment, so that it may remember.
    """

    def __init__(self, target: str, actions: ActionMap) -> None:
        self.name = target
        self._make = lookup(target, "policy")
        self._actions = actions

    def begin(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._player: Any = self._make() if inspect.isclass(self._make) else self._make

    def act(self, observation: Observation) -> Any:
        """An action in the form that a dataset has."""
        return self._actions.recorded(self._player(observation.native, self._rng), self.name)


def gymnasium_policy(config: GymnasiumConfig, world: GymnasiumWorld) -> MixedPolicy:
    """The random player alone, or mixed with the user's: a world must also have seen what no good player does."""
    hold_steps = max(1.0, config.hold_s * world.frame["fps"])
    policies: list[Policy] = [HeldRandomPolicy(world.action_space, hold_steps)]
    if config.policy == RANDOM:
        return MixedPolicy(policies, [1.0], _SEGMENT_STEPS)
    policies.append(OwnPolicy(config.policy, world.actions))
    return MixedPolicy(policies, [config.random_share, 1.0 - config.random_share], _SEGMENT_STEPS)
