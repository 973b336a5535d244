"""Worlds whose tick is a chunk of pictures, as Gymnasium environments."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium")

from gymnasium.utils.env_checker import check_env  # noqa: E402

from dsa_runtime import PromptError, World, load_world  # noqa: E402
from dsa_runtime.gym import WorldEnv, WorldVectorEnv  # noqa: E402
from tests.chunk_world import PICTURES, PROMPTS, write_chunk_world  # noqa: E402


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with load_world(write_chunk_world(tmp_path_factory.mktemp("worlds") / "chunks"), threads=1) as world:
        yield world


def test_an_observation_is_all_pictures_of_a_tick(world: World) -> None:
    seen = []
    env = WorldEnv(
        world,
        steps=2,
        prompt=PROMPTS[1],
        render_mode="rgb_array",
        reward=lambda before, action, after, info: seen.append((before, after)) or 1.0,
    )
    assert env.observation_space.shape == (PICTURES, 8, 8, 3) and env.metadata["render_fps"] == 4
    with world.session(3, prompt=PROMPTS[1]) as session:
        begins = session.reset(3)
        first, _ = env.reset(seed=3)
        np.testing.assert_array_equal(first, np.stack([begins] * PICTURES))
        np.testing.assert_array_equal(env.render(), begins)
        frames, *_ = env.step(1)
        tick = session.step(1, math.inf, steps=2)
    np.testing.assert_array_equal(frames, tick.frames)
    np.testing.assert_array_equal(env.render(), tick.pixels)
    np.testing.assert_array_equal(seen[0][0], first)
    np.testing.assert_array_equal(seen[0][1], frames)
    check_env(env, skip_render_check=True)
    env.close()
    with pytest.raises(PromptError, match=r"^prompt: "):
        WorldEnv(world, prompt="a calm see")


def test_many_of_a_world_that_cannot_be_batched_draw_what_single_ones_draw(world: World) -> None:
    envs, single = WorldVectorEnv(world, 2, steps=1), WorldEnv(world, steps=1)
    envs.reset(seed=7)
    frames, *_ = envs.step([1, 2])
    assert frames.shape == (2, PICTURES, 8, 8, 3) == envs.observation_space.shape
    for index, action in enumerate([1, 2]):
        single.reset(seed=7 + index)
        np.testing.assert_array_equal(frames[index], single.step(action)[0])
    envs.close()
    single.close()
