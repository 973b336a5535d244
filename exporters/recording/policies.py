"""Scripted players for worlds that turn and shoot. Mixed per segment, they cover every action well.

All of them are functions of (their random generator, the observation): equal seeds play equal games.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from .environment import Observation

# turn (-1 right, 0, +1 left) and fire -> action index of `vizdoom_world.ACTION_NAMES`.
_ACTIONS = {(0, False): 0, (1, False): 1, (-1, False): 2, (0, True): 3, (1, True): 4, (-1, True): 5}
_ANGLE = 0  # index of angle_deg in the state; 0 looks down the corridor, left is positive


class Policy(Protocol):
    """A player: `begin` at the start of a segment, then one `act` per step."""

    name: str

    def begin(self, rng: np.random.Generator) -> None: ...

    def act(self, observation: Observation) -> Any: ...


def heading_deg(observation: Observation) -> float:
    """The player's angle off the corridor's axis, in (-180, 180], left positive."""
    angle = float(observation.state[_ANGLE]) % 360.0
    return angle - 360.0 if angle > 180.0 else angle


class AimingPolicy:
    """Turns to the biggest monster in view and fires when it is centred; without one, turns to the front."""

    name = "aim"

    def begin(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._fire_while_turning = float(rng.choice([0.0, 0.2, 0.7]))
        self._fire_when_centred = float(rng.uniform(0.6, 1.0))
        self._slack = float(rng.uniform(0.02, 0.06))

    def act(self, observation: Observation) -> int:
        if observation.targets:
            target = max(observation.targets, key=lambda candidate: candidate.area)
            offset, tolerance = target.offset, self._slack + target.width / 4
        else:
            offset, tolerance = heading_deg(observation) / 90.0, 0.05  # off to the left means: turn right
        turn = 0 if abs(offset) <= tolerance else (-1 if offset > 0 else 1)
        chance = self._fire_while_turning if turn else self._fire_when_centred * bool(observation.targets)
        return _ACTIONS[turn, bool(self._rng.random() < chance)]


class StickyRandomPolicy:
    """Holds a random action for a random time. Beyond `limit_deg` it mostly turns back towards the front."""

    name = "sticky"
    _CHANCES = (0.20, 0.20, 0.20, 0.10, 0.15, 0.15)

    def __init__(self, mean_hold_steps: float = 6.0, limit_deg: float = 75.0):
        self._mean_hold_steps = mean_hold_steps
        self._limit_deg = limit_deg

    def begin(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._left_steps = 0
        self._action = 0

    def act(self, observation: Observation) -> int:
        if self._left_steps == 0:
            self._action = int(self._rng.choice(len(self._CHANCES), p=self._CHANCES))
            self._left_steps = int(self._rng.geometric(1.0 / self._mean_hold_steps))
            heading = heading_deg(observation)
            if abs(heading) > self._limit_deg and self._rng.random() < 0.8:
                self._action = _ACTIONS[-1 if heading > 0 else 1, bool(self._action >= 3)]
        self._left_steps -= 1
        return self._action


class SweepPolicy:
    """Sweeps left and right between random angles with pauses, firing in bursts; sometimes turns right round."""

    name = "sweep"

    def begin(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._turn = int(rng.choice([-1, 1]))
        self._full_turn = bool(rng.random() < 0.15)
        self._amplitude_deg = float(rng.uniform(10.0, 90.0))
        self._burst = float(rng.choice([0.0, 0.05, 0.2]))
        self._fire = False
        self._pause_steps = 0

    def act(self, observation: Observation) -> int:
        if self._rng.random() < (0.2 if self._fire else self._burst):
            self._fire = not self._fire
        if self._pause_steps > 0:
            self._pause_steps -= 1
            return _ACTIONS[0, self._fire]
        if not self._full_turn and heading_deg(observation) * self._turn >= self._amplitude_deg:
            self._turn = -self._turn
            self._amplitude_deg = float(self._rng.uniform(10.0, 90.0))
            self._pause_steps = int(self._rng.integers(0, 10))
        return _ACTIONS[self._turn, self._fire]


class MixedPolicy:
    """Plays one policy for a random segment, then draws the next. `weights` need not sum to one."""

    name = "mixed"

    def __init__(
        self, policies: Sequence[Policy], weights: Sequence[float], segment_steps: tuple[int, int] = (40, 160)
    ):
        if len(policies) != len(weights) or not policies:
            raise ValueError(f"{len(policies)} policies need as many weights, got {len(weights)}")
        if min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(f"weights must be non-negative with a positive sum, got {list(weights)}")
        self._policies = list(policies)
        self._chances = np.asarray(weights, dtype=np.float64) / float(sum(weights))
        self._segment_steps = segment_steps

    @property
    def description(self) -> str:
        """For the dataset's provenance."""
        parts = (f"{policy.name} {chance:.0%}" for policy, chance in zip(self._policies, self._chances, strict=True))
        return ", ".join(parts) + f" in segments of {self._segment_steps[0]}-{self._segment_steps[1]} steps"

    def begin(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._left_steps = 0

    def act(self, observation: Observation) -> Any:
        if self._left_steps == 0:
            self._current = self._policies[int(self._rng.choice(len(self._policies), p=self._chances))]
            self._current.begin(self._rng)
            self._left_steps = int(self._rng.integers(self._segment_steps[0], self._segment_steps[1] + 1))
        self._left_steps -= 1
        return self._current.act(observation)


def default_policy() -> MixedPolicy:
    """The mixture the bundled world is recorded with."""
    return MixedPolicy([AimingPolicy(), StickyRandomPolicy(), SweepPolicy()], [0.40, 0.35, 0.25])
