"""A policy learns inside a neural world, from pictures alone.

    python examples/train_policy.py                      # about a minute of processor time

The task: look down the corridor of `defend-the-line`, after having been turned away from it. Nothing outside the world
takes part: the reward is read from its pictures (is there as much wall on the left as on the right, and how much of the
view is open?), the policy is two numbers on one feature of the picture, and the cross-entropy method finds them. One
vector environment plays all candidates of a generation at once, in common batches. At the end the policy is compared
with random actions on start contexts that it has not been trained on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

import dsa_runtime.gym  # noqa: F401  # registers the worlds

Features = Callable[[np.ndarray], np.ndarray]
Policy = Callable[[np.ndarray], np.ndarray]
_GUN_ROWS = 40  # of 64: the rows above the gun
_TRAINED_ON = 12  # of the 16 start contexts
_TURNED = 0.25
_FIRST_SPREAD = 1.5
_SHOVE_TICKS = 6


@dataclass(frozen=True)
class TrainingConfig:
    """The cross-entropy method and its episodes."""

    generations: int = 6
    candidates: int = 16
    episodes: int = 2
    """Of each candidate in a generation, from as many start contexts; all are played at once."""
    elites: int = 4
    ticks: int = 20
    """Per episode."""
    steps: int | None = 1
    """Denoising steps per frame: what is learned needs no sharp pictures. None for the world's choice."""
    seed: int = 0


def walls(pictures: np.ndarray) -> np.ndarray:
    """How much of each half is brown wall: `uint8[..., H, W, 3]` -> `float[..., 2]`, left and right, in [0, 1]."""
    red, green, blue = np.moveaxis(pictures[..., :_GUN_ROWS, :, :].astype(np.int16), -1, 0)
    wall = (red > green + 10) & (green > blue + 5) & (red < 170)
    return np.stack([half.mean((-2, -1)) for half in np.split(wall, 2, axis=-1)], axis=-1)


def balance(pictures: np.ndarray) -> np.ndarray:
    """The policy's one feature: which half has more wall, `float[..., 1]` in [-1 (right), 1 (left)]."""
    left, right = np.moveaxis(walls(pictures), -1, 0)
    return ((left - right) / (left + right + 1e-3))[..., None]


def down_the_corridor(frame: np.ndarray, action: Any, next_frame: np.ndarray, info: dict[str, Any]) -> float:
    """The reward, in [0, 1]: balanced walls times open view, which is grey."""
    unbalance = abs(float(balance(next_frame)[0]))
    view = next_frame[:_GUN_ROWS].astype(np.int16)
    open_view = (view.max(-1) - view.min(-1) < 12).mean()
    return float((1.0 - unbalance) * open_view)


class Steering:
    """A wheel for every candidate, linear in the features: turned far enough it means left or right."""

    def __init__(self, weights: np.ndarray, features: Features, actions: Sequence[int]) -> None:
        """
        weights   `float[candidates, features + 1]`
        actions   the world's for left, straight on and right
        """
        self._weights, self._features, self._actions = weights, features, np.asarray(actions)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """`uint8[candidates, H, W, 3]` -> `int64[candidates]`, actions of the world."""
        features = self._features(frames)
        inputs = np.concatenate([features, np.ones((len(features), 1))], axis=1)
        wheel = (self._weights * inputs).sum(axis=1)
        return self._actions[1 + (wheel > _TURNED).astype(int) - (wheel < -_TURNED).astype(int)]


def score(
    envs: gymnasium.vector.VectorEnv, policy: Policy, actions: Sequence[int], ticks: int, seed: int, contexts: list[int]
) -> np.ndarray:
    """Mean reward per tick of each sub-environment, `float[num_envs]`, from these contexts.

    Every episode begins with a shove, to the left and to the right in turn, so that doing nothing is no answer.
    """
    frames, _ = envs.reset(seed=seed, options={"context": contexts})
    shove = np.where(np.arange(envs.num_envs) % 2, actions[0], actions[-1])
    for _ in range(_SHOVE_TICKS):
        frames, *_ = envs.step(shove)
    total = np.zeros(envs.num_envs)
    for _ in range(ticks):
        frames, rewards, *_ = envs.step(policy(frames))
        total += rewards
    return total / ticks


def train(
    envs: gymnasium.vector.VectorEnv, config: TrainingConfig, features: Features, actions: Sequence[int], contexts: int
) -> np.ndarray:
    """The weights found, `float[features + 1]`. Start contexts are drawn from the first `contexts`."""
    rng = np.random.default_rng(config.seed)
    width = features(np.zeros((1, *envs.single_observation_space.shape), np.uint8)).shape[1] + 1
    mean, spread = np.zeros(width), np.full(width, _FIRST_SPREAD)
    for generation in range(config.generations):
        weights = mean + spread * rng.normal(size=(config.candidates, *mean.shape))
        # The same contexts for all candidates, so that they are compared on the same moments.
        turns = rng.choice(contexts, size=config.episodes, replace=False).tolist()
        policy = Steering(np.repeat(weights, config.episodes, axis=0), features, actions)
        scores = score(envs, policy, actions, config.ticks, generation, turns * config.candidates)
        scores = scores.reshape(config.candidates, config.episodes).mean(axis=1)
        elites = weights[np.argsort(scores)[-config.elites :]]
        mean, spread = elites.mean(0), elites.std(0) + 0.2
        print(f"generation {generation}: mean {scores.mean():.3f}, best {scores.max():.3f}", flush=True)
    return mean


def compare(
    envs: gymnasium.vector.VectorEnv,
    weights: np.ndarray,
    features: Features,
    actions: Sequence[int],
    contexts: Sequence[int],
    ticks: int,
) -> tuple[float, float]:
    """Mean reward per tick of the policy and of random actions, from these contexts in turn."""
    rng = np.random.default_rng(1)
    turns = [contexts[index % len(contexts)] for index in range(envs.num_envs)]
    learned = Steering(np.broadcast_to(weights, (envs.num_envs, len(weights))), features, actions)
    policies: list[Policy] = [learned, lambda frames: rng.choice(actions, size=len(frames))]
    ours, chance = (score(envs, policy, actions, ticks, 1000, turns).mean() for policy in policies)
    return float(ours), float(chance)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generations", type=int, default=TrainingConfig.generations)
    parser.add_argument("--ticks", type=int, default=TrainingConfig.ticks, help="per episode (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    config = TrainingConfig(generations=options.generations, ticks=options.ticks, seed=options.seed)
    envs = gymnasium.make_vec(
        "dsa/defend-the-line",
        num_envs=config.candidates * config.episodes,
        reward=down_the_corridor,
        steps=config.steps,
    )
    names = envs.unwrapped.actions.names
    turns = [names.index(name) for name in ("left", "noop", "right")]
    weights = train(envs, config, balance, turns, _TRAINED_ON)
    held_out = range(_TRAINED_ON, envs.unwrapped.world.contexts)
    learned, chance = compare(envs, weights, balance, turns, held_out, config.ticks)
    print(f"on contexts it has not seen: {learned:.3f} per tick, random actions {chance:.3f}")
    envs.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
