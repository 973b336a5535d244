"""Worlds as Gymnasium environments: the checker, repeatability, and a batch that draws what single ones draw."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium")

from gymnasium.utils.env_checker import check_env  # noqa: E402

import dsa_runtime.gym  # noqa: E402, F401
from dsa_runtime import ActionError, SessionError, World  # noqa: E402
from dsa_runtime.gym import WorldEnv, WorldVectorEnv  # noqa: E402
from dsa_runtime.spec import Box  # noqa: E402
from tests.tiny_world import write_tiny_world  # noqa: E402


def test_the_environment_checker_passes(tiny_package: Path) -> None:
    env = gymnasium.make("dsa/world", world=tiny_package, render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
    env.close()


def test_a_box_world_passes_as_well(tmp_path: Path) -> None:
    env = gymnasium.make(
        "dsa/world", world=write_tiny_world(tmp_path / "box", Box((-1.0, -2.0), (1.0, 2.0), ("a", "b"), ("rad/s", "m")))
    )
    check_env(env.unwrapped, skip_render_check=True)
    assert isinstance(env.action_space, gymnasium.spaces.Box)
    env.close()


def test_the_bundled_world_is_registered_and_cut_when_asked() -> None:
    env = gymnasium.make("dsa/defend-the-line", max_episode_steps=2, steps=1, threads=1)
    frame, _ = env.reset(seed=1)
    assert env.observation_space.contains(frame)
    assert [env.step(0)[3] for _ in range(2)] == [False, True]
    env.close()


def test_seed_and_actions_decide_the_frames(tiny_world: World) -> None:
    env, actions = WorldEnv(tiny_world), [0, 2, 1, 3]

    def play(seed: int) -> np.ndarray:
        return np.stack([env.reset(seed=seed)[0], *(env.step(action)[0] for action in actions)])

    first = play(5)
    assert np.array_equal(first, play(5))
    assert not np.array_equal(first[1:], play(6)[1:])


def test_a_reward_sees_both_pictures_and_the_action(tiny_world: World) -> None:
    seen = []

    def reward(frame: np.ndarray, action: int, next_frame: np.ndarray, info: dict) -> float:
        seen.append((frame.copy(), action, next_frame.copy(), info["steps"]))
        return 2.5

    env = WorldEnv(tiny_world, reward=reward, steps=1)
    start, _ = env.reset(seed=0)
    frame, value, *_ = env.step(2)
    before, action, after, steps = seen[0]
    assert (value, action, steps) == (2.5, 2, 1)
    assert np.array_equal(before, start) and np.array_equal(after, frame)


def test_a_bad_action_changes_nothing(tiny_world: World) -> None:
    env, other = WorldEnv(tiny_world), WorldEnv(tiny_world)
    env.reset(seed=3), other.reset(seed=3)
    with pytest.raises(ActionError):
        env.step(99)
    assert np.array_equal(env.step(1)[0], other.step(1)[0])


@pytest.mark.parametrize("steps", [1, 3])
def test_a_batch_draws_what_single_ones_draw(tiny_world: World, steps: int) -> None:
    envs, single = WorldVectorEnv(tiny_world, 3, steps=steps), WorldEnv(tiny_world, steps=steps)
    actions = np.array([[0, 1, 2], [3, 0, 1], [1, 1, 3]])
    frames = [envs.reset(seed=7)[0], *(envs.step(row)[0] for row in actions)]
    for index in range(3):
        alone = [single.reset(seed=7 + index)[0], *(single.step(row[index])[0] for row in actions)]
        assert np.array_equal(np.stack(frames)[:, index], np.stack(alone)), f"sub-environment {index}"
    envs.close()


def test_the_step_after_a_truncation_resets(tiny_world: World) -> None:
    envs = WorldVectorEnv(tiny_world, 2, max_episode_steps=2, steps=1, reward=lambda *_: 1.0)
    envs.reset(seed=0)
    told = [envs.step(np.zeros(2, np.int64)) for _ in range(4)]
    assert [bool(one[3].all()) for one in told] == [False, True, False, False]
    assert [one[1].tolist() for one in told] == [[1, 1], [1, 1], [0, 0], [1, 1]]
    envs.close()


def test_a_batch_refuses_what_does_not_fit_it(tiny_world: World) -> None:
    envs = WorldVectorEnv(tiny_world, 2, steps=1)
    with pytest.raises(SessionError, match="seed: expected one per sub-environment, 2, got 3"):
        envs.reset(seed=[1, 2, 3])
    envs.reset(seed=0)
    for actions in ([0], [0, 1, 2], 0):
        with pytest.raises(ActionError, match="actions: expected one per sub-environment, 2"):
            envs.step(actions)
    envs.close()
    with pytest.raises(SessionError, match="closed"):
        envs.step([0, 0])


def test_a_reset_that_fails_for_one_resets_none(tiny_world: World) -> None:
    envs, other = WorldVectorEnv(tiny_world, 2, steps=1), WorldVectorEnv(tiny_world, 2, steps=1)
    for one in (envs, other):
        one.reset(seed=0)
        one.step([1, 1])
    for wrong in ({"seed": 5, "options": {"context": [0, 9]}}, {"seed": [5, -1]}, {"seed": [5, 1 << 63]}):
        with pytest.raises(SessionError, match=r"context|seed"):
            envs.reset(**wrong)
        np.testing.assert_array_equal(envs.step([0, 2])[0], other.step([0, 2])[0])
    np.testing.assert_array_equal(envs.reset()[0], other.reset()[0])
    envs.close()
    other.close()
