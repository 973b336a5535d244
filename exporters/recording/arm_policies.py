"""Scripted players for the arm: one that seeks contact, one that holds random velocities, one that lets go.

Functions of (their random generator, the observation), like those of `policies.py`.
"""

from __future__ import annotations

import numpy as np

from .environment import Observation
from .mujoco_arm import BLOCKS, FORE_M, STATE_NAMES, UPPER_M, ArmConfig
from .policies import MixedPolicy

_TIP = STATE_NAMES.index("tip_x_m")
_FIRST_BLOCK = STATE_NAMES.index(f"{BLOCKS[0]}_x_m")


class PushPolicy:
    """Drives the tip at a block, from a random side and through it, until time is up or the block is gone."""

    name = "push"

    def __init__(self, config: ArmConfig) -> None:
        self._limits = np.array([config.shoulder_rad_s, config.elbow_rad_s])

    def begin(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._left_steps = 0

    def act(self, observation: Observation) -> np.ndarray:
        """float32[2] joint velocities, rad/s."""
        tip = observation.state[_TIP : _TIP + 2].astype(np.float64)
        if self._left_steps == 0:
            self._block = int(self._rng.integers(len(BLOCKS)))
            self._speed = float(self._rng.uniform(0.25, 0.75))
            self._aside = self._rng.normal(0.0, 0.05, 2)
            self._left_steps = int(self._rng.integers(12, 45))
        self._left_steps -= 1
        place = observation.state[_FIRST_BLOCK + 2 * self._block :][:2] + self._aside
        way = place - tip
        goal = place + 0.25 * way / (np.linalg.norm(way) + 1e-6)
        velocity = self._speed * (goal - tip) / (np.linalg.norm(goal - tip) + 1e-6)
        return self._reach(observation.state[:2].astype(np.float64), velocity)

    def _reach(self, joints: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """Joint velocities for a tip velocity in m/s: damped least squares, scaled back into the limits."""
        shoulder, both = joints[0], joints.sum()
        fore = FORE_M * np.array([np.cos(both), np.sin(both)])
        jacobian = np.stack([UPPER_M * np.array([np.cos(shoulder), np.sin(shoulder)]) + fore, fore], axis=1)
        wanted = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + 0.01 * np.eye(2), velocity)
        scaled = wanted / max(1.0, float(np.abs(wanted / self._limits).max()))
        return np.asarray(scaled, dtype=np.float32)


class HoldPolicy:
    """Holds a random velocity for a random time; each joint rests in a quarter of them. Turns back at the limits."""

    name = "hold"

    def __init__(self, config: ArmConfig, mean_hold_steps: float = 9.0) -> None:
        self._limits = np.array([config.shoulder_rad_s, config.elbow_rad_s])
        self._mean_hold_steps = mean_hold_steps

    def begin(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._left_steps = 0

    def act(self, observation: Observation) -> np.ndarray:
        """float32[2] joint velocities, rad/s."""
        if self._left_steps == 0:
            self._action = self._rng.uniform(-1.0, 1.0, 2) * (self._rng.random(2) >= 0.25) * self._limits
            self._left_steps = int(self._rng.geometric(1.0 / self._mean_hold_steps))
            for joint, turn in enumerate((0.65, 1.9)):
                if abs(observation.state[joint]) > turn and self._rng.random() < 0.8:
                    self._action[joint] = -np.sign(observation.state[joint]) * abs(self._action[joint])
        self._left_steps -= 1
        return self._action.astype(np.float32)


class RestPolicy:
    """Lets go: zero velocity."""

    name = "rest"

    def begin(self, rng: np.random.Generator) -> None:
        pass

    def act(self, observation: Observation) -> np.ndarray:
        """float32[2] of zeros."""
        return np.zeros(2, dtype=np.float32)


def arm_policy(config: ArmConfig) -> MixedPolicy:
    """The mixture that push-blocks is recorded with."""
    return MixedPolicy([PushPolicy(config), HoldPolicy(config), RestPolicy()], [0.60, 0.35, 0.05], (30, 120))
