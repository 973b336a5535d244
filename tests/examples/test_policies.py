"""The example that learns and the one that plans: better than chance, at small size on the tiny world."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dsa_runtime import Box, World, bundled_worlds, load_world

pytest.importorskip("gymnasium")

from dsa_runtime.gym import WorldVectorEnv
from examples import mpc, train_policy
from examples.mpc import PlannerConfig, Task

TURNS = [1, 0, 2]  # left, noop, right


def redness(pictures: np.ndarray) -> np.ndarray:
    """`float[..., 1]` in [-1, 1]: what the tiny world's action changes."""
    red = pictures[..., 0].astype(np.float64).mean((-2, -1))
    return red[..., None] / 127.5 - 1.0


def test_a_policy_learns_what_a_picture_rewards(tiny_world: World) -> None:
    config = train_policy.TrainingConfig(generations=3, candidates=8, episodes=2, elites=3, ticks=8)

    def reward(frame: np.ndarray, action: Any, next_frame: np.ndarray, info: dict[str, Any]) -> float:
        return float(redness(next_frame)[0])

    envs = WorldVectorEnv(tiny_world, config.candidates * config.episodes, reward=reward, steps=1)
    weights = train_policy.train(envs, config, redness, TURNS, tiny_world.contexts)
    learned, chance = train_policy.compare(envs, weights, redness, TURNS, range(tiny_world.contexts), 8)
    assert weights.shape == (2,)
    assert learned > chance + 0.02
    envs.close()


def test_imagined_pictures_are_those_that_would_come(tiny_world: World) -> None:
    plans = [[0, 1, 3], [2, 2, 0], [3, 3, 3]]
    with tiny_world.session(5, batched=True) as session:
        session.step(1, math.inf)
        pictures = mpc.imagine(session, plans, 2)
        assert session.tick == 1, "imagination leaves the session where it was"
        for plan, imagined in zip(plans, pictures, strict=True):
            with tiny_world.session(5) as alone:
                alone.step(1, math.inf)
                expected = [alone.step(action, math.inf, steps=2).pixels for action in plan]
            np.testing.assert_array_equal(imagined, expected)


def test_planning_gets_what_is_wanted(tiny_world: World) -> None:
    def begin(session: Any, seed: int) -> tuple[mpc.Cost, Callable[[np.ndarray], float]]:
        session.reset(seed)
        return lambda pictures: -redness(pictures)[..., 0].mean(1), lambda picture: -float(redness(picture)[0])

    task = Task("tiny", "redness", mpc.turn, 1, begin)
    config = PlannerConfig(plans=6, elites=2, moves=2, hold=2)
    with tiny_world.session(batched=True) as session:
        planned, chance = (
            np.mean([mpc.play(session, task, seed, 8, config, how) for seed in range(3)]) for how in (True, False)
        )
    assert planned < chance - 0.05


def test_colours_are_found_and_judged() -> None:
    picture = np.full((64, 64, 3), (205, 190, 165), np.uint8)
    picture[20:30, 40:50] = (220, 40, 36)
    picture[50:54, 10:14] = (92, 51, 115)
    np.testing.assert_allclose(mpc.find(picture, "red"), [44.5, 24.5])
    np.testing.assert_allclose(mpc.find(picture, "tip"), [11.5, 51.5])
    without = np.full_like(picture, 190)
    assert np.isnan(mpc.find(without, "red")).all()
    nearer = np.roll(picture, 5, axis=1)
    costs = mpc.push_cost(np.array([[picture] * 2, [picture, nearer], [picture, without]]), np.array([60.0, 24.5]))
    assert costs[1] < costs[0] < costs[2] == np.inf


def test_moves_of_an_arm_stay_in_bounds() -> None:
    arm = Box((-0.5, -0.1), (0.5, 0.8), ("shoulder", "elbow"), ("rad/s", "rad/s"))
    action_of = mpc.velocities(arm)
    for move in np.random.default_rng(0).choice([-1.0, -0.3, 0.7, 1.0], (50, 2)):
        arm.validate(action_of(move))
    np.testing.assert_allclose(action_of(np.array([1.0, -1.0])), [0.5, -0.1])


@pytest.mark.slow
def test_the_bundled_world_is_learned_in(capsys: pytest.CaptureFixture[str]) -> None:
    assert train_policy.main([]) == 0
    words = capsys.readouterr().out.splitlines()[-1].replace(",", "").split()
    learned, chance = float(words[6]), float(words[-1])
    assert learned > chance + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", mpc.TASKS)
def test_planning_beats_chance_in_its_world(name: str) -> None:
    task = mpc.TASKS[name]
    if task.world not in bundled_worlds():
        pytest.skip(f"the world {task.world} is not bundled yet")
    with load_world(task.world) as world, world.session(batched=True) as session:
        both = [
            [np.mean(mpc.play(session, task, seed, 24, PlannerConfig(plans=12), how)[12:]) for seed in range(3)]
            for how in (True, False)
        ]
    planned, chance = np.mean(both, axis=1)
    assert planned < 0.8 * chance
