"""Episodes: start contexts, seeds after an automatic reset, and steps that fail for one and so for all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium")

from dsa_runtime import BudgetError, EngineError, SessionError, World  # noqa: E402
from dsa_runtime.gym import MAX_EPISODE_STEPS, WorldEnv, WorldVectorEnv  # noqa: E402
from dsa_runtime.gym.episode import Episode  # noqa: E402

WITHOUT_GYMNASIUM = """
import sys
sys.modules["gymnasium"] = None  # importing it now raises
import dsa_runtime
try:
    import dsa_runtime.gym
except ImportError as error:
    print(error)
"""


def test_a_context_can_be_asked_for(tiny_world: World) -> None:
    env, envs = WorldEnv(tiny_world), WorldVectorEnv(tiny_world, 3)
    starts = []
    for context in range(tiny_world.contexts):
        frame, info = env.reset(seed=9, options={"context": context})
        assert info["context"] == context and info["seed"] % tiny_world.contexts == context
        with tiny_world.session() as session:
            np.testing.assert_array_equal(frame, session.reset(info["seed"]))
        starts.append(frame)
    frames, infos = envs.reset(seed=1, options={"context": [1, 0, 1]})
    np.testing.assert_array_equal(frames, [starts[1], starts[0], starts[1]])
    assert infos["context"].tolist() == [1, 0, 1]
    frames, _ = envs.reset(options={"context": 0})
    np.testing.assert_array_equal(frames, [starts[0]] * 3)
    for wrong, words in (({"context": 2}, r"context.*0\.\.1, got 2"), ({"context": "0"}, "expected an integer")):
        with pytest.raises(SessionError, match=words):
            env.reset(options=wrong)
    with pytest.raises(SessionError, match="one per sub-environment, 3, got 2"):
        envs.reset(options={"context": [0, 1]})
    envs.close()


def test_a_batch_goes_on_as_single_ones_after_it_has_reset_itself(tiny_world: World) -> None:
    """With the confidence deciding, and with the seeds that each sub-environment draws for itself."""
    envs = WorldVectorEnv(tiny_world, 3, max_episode_steps=2)
    batch = [envs.reset(seed=[3, 4, 5]), *(envs.step(np.array([1, 2, 3])) for _ in range(5))]
    for index in range(3):
        single = WorldEnv(tiny_world)
        alone = [single.reset(seed=3 + index)]
        for step in range(5):
            alone.append(single.reset() if step == 2 else single.step(index + 1))
        for together, one in zip(batch, alone, strict=True):
            np.testing.assert_array_equal(together[0][index], one[0])
            for key in ("steps", "seed"):
                if key in one[-1]:
                    assert together[-1][key][index] == one[-1][key]
    envs.close()


def test_a_step_that_fails_for_one_moves_none(tiny_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    envs, other = WorldVectorEnv(tiny_world, 3), WorldVectorEnv(tiny_world, 3)
    actions = np.array([0, 1, 2])
    real = Episode.step
    for one in (envs, other):
        one.reset(seed=0)
        one.step(actions)

    def failing(episode: Episode, action: int) -> object:
        if action == 1:
            raise EngineError("made to fail")
        return real(episode, action)

    with monkeypatch.context() as patch:
        patch.setattr(Episode, "step", failing)
        with pytest.raises(EngineError, match="made to fail"):
            envs.step(actions)
    for _ in range(2):
        np.testing.assert_array_equal(envs.step(actions)[0], other.step(actions)[0])
    envs.close()
    other.close()


def test_a_budget_brings_the_clock_into_the_info(tiny_world: World) -> None:
    env = WorldEnv(tiny_world, budget_ms=1000.0)
    env.reset(seed=0)
    info = env.step(0)[-1]
    assert info["slack_ms"] == pytest.approx(1000.0 - info["total_ms"])
    assert info["status"] == "ok"
    with pytest.raises(BudgetError, match="budget_ms"):
        WorldEnv(tiny_world, budget_ms=0)
    with pytest.raises(BudgetError, match=r"steps: must lie in 1\.\.4, got 5"):
        WorldVectorEnv(tiny_world, 2, steps=5)


def test_observations_are_the_callers_own(tiny_world: World) -> None:
    env = WorldEnv(tiny_world, render_mode="rgb_array", reward=lambda before, *_: float(before.sum()))
    frame, _ = env.reset(seed=0)
    expected = float(frame.sum())
    frame[:] = 0
    assert env.step(0)[1] == expected
    rendered = env.render()
    assert rendered is not None and rendered.any()


def test_reset_comes_first(tiny_world: World) -> None:
    for env, action in ((WorldEnv(tiny_world), 0), (WorldVectorEnv(tiny_world, 2), np.zeros(2, np.int64))):
        with pytest.raises(gymnasium.error.ResetNeeded):
            env.step(action)
        env.close()
        env.close()


def test_by_name_alone(tiny_package: Path) -> None:
    env = gymnasium.make("dsa_runtime.gym:dsa/world", world=str(tiny_package), threads=1)
    assert env.spec.max_episode_steps == MAX_EPISODE_STEPS
    env.close()
    envs = gymnasium.make_vec("dsa/world", num_envs=2, world=str(tiny_package), threads=1, max_episode_steps=1)
    assert isinstance(envs, WorldVectorEnv)
    envs.reset(seed=0)
    assert envs.step(envs.action_space.sample())[3].all()
    envs.close()


def test_what_is_missing_is_named() -> None:
    result = subprocess.run([sys.executable, "-c", WITHOUT_GYMNASIUM], capture_output=True, text=True, timeout=120)
    assert result.stdout == "dsa_runtime.gym needs gymnasium: pip install 'dsa-runtime[gym]'\n", result.stderr
