"""WorldVectorEnv: many sessions of one world, stepped together in common engine calls."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, iterate

from ..actions import ActionSpace
from ..arguments import check_count
from ..errors import ActionError, SessionError
from ..tick import Tick
from ..world import World, load_world
from . import spaces
from .episode import Episode, EpisodeConfig
from .reward import Reward, no_reward


class WorldVectorEnv(VectorEnv[np.ndarray, Any, np.ndarray]):
    """`num_envs` sessions, batched where the world can be. Sub-environment i draws the frames of a `WorldEnv` with its
    seed.

    Autoreset is `NEXT_STEP`: the step after a truncation ignores that sub-environment's action, resets it, and returns
    its first observation with reward 0.

    (The confidence of a batch differs from that of a lone session in the last bits, so a frame at the very edge of its
    threshold may take another number of steps. With `steps=` nothing can.)
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        world: World | str | os.PathLike[str] | None = None,
        num_envs: int = 1,
        *,
        max_episode_steps: int | None = None,
        reward: Reward = no_reward,
        budget_ms: float | None = None,
        threshold: float | None = None,
        steps: int | None = None,
        threads: int | None = None,
        prompt: str | np.ndarray | None = None,
        render_mode: str | None = None,
    ) -> None:
        """As `WorldEnv`; `max_episode_steps` cuts episodes, None never does."""
        num_envs = check_count("num_envs", num_envs, 1, 1 << 12)
        if max_episode_steps is not None:
            max_episode_steps = check_count("max_episode_steps", max_episode_steps, 1, 1 << 62)
        self._own = not isinstance(world, World)
        self.world = load_world(world, threads=threads) if not isinstance(world, World) else world
        self.num_envs, self.render_mode = num_envs, render_mode
        self._limit, self._reward = max_episode_steps, reward
        self._episodes: list[Episode] = []
        self._pool = ThreadPoolExecutor(num_envs, "dsa-gym")
        try:
            config = EpisodeConfig(budget_ms, threshold, steps)
            config.check(self.world.spec.schedule.steps)
            for _ in range(num_envs):
                # One tick of history, so that a step that fails in one session can be undone in the others.
                session = self.world.session(
                    threshold=threshold, batched=self.world.batchable, history=1, prompt=prompt
                )
                self._episodes.append(Episode(self.world, session, config))
        except BaseException:
            self.close_extras()
            raise
        spec = self.world.spec
        self.single_observation_space = spaces.observation_space(spec.frame)
        self.single_action_space = spaces.action_space(spec.action_space)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.metadata = {**self.metadata, "render_fps": spec.frame.fps / spec.frame.frames_per_tick}
        self._rngs = [seeding.np_random()[0] for _ in range(num_envs)]
        self._elapsed = np.zeros(num_envs, np.int64)
        self._truncated = np.zeros(num_envs, np.bool_)

    @property
    def actions(self) -> ActionSpace:
        """One sub-environment's action space with its names and units."""
        return self.world.spec.action_space

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start all over.

        seed      for sub-environment i: `seed + i`, or `seed[i]`; None draws
        options   `{"context": k}` for all, or a sequence with one k for each
        """
        seeds = self._seeds(seed)
        each = self._options(options)
        for one, episode, own in zip(seeds, self._episodes, each, strict=True):
            episode.check(one, own)  # all of them before the first is reset
        for index, one in enumerate(seeds):
            if one is not None:
                self._rngs[index] = seeding.np_random(one)[0]
        infos: dict[str, Any] = {}
        for index, one in enumerate(seeds):
            infos = self._add_info(infos, self._reset(index, one, each[index]), index)
        return self._frames(), infos

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One tick of each, together. Raises as `Session.step`, and then none of them has moved."""
        due = np.flatnonzero(~self._truncated).tolist()
        each = self._each(actions)
        for index in due:
            self.actions.validate(each[index])
        before = [episode.frame for episode in self._episodes]
        ticks = self._step(due, each)
        infos: dict[str, Any] = {}
        rewards = np.zeros(self.num_envs, np.float64)
        for index, episode in enumerate(self._episodes):
            if index in ticks:
                info = episode.arrive(ticks[index])
                rewards[index] = self._reward(before[index], each[index], episode.frame, info)
                self._elapsed[index] += 1
            else:
                info = self._reset(index, None, None)
            infos = self._add_info(infos, info, index)
        if self._limit is not None:
            self._truncated = self._elapsed >= self._limit
        terminated = np.zeros(self.num_envs, np.bool_)
        return self._frames(), rewards, terminated, self._truncated.copy(), infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The newest pictures in mode `rgb_array`, else None."""
        if self.render_mode != "rgb_array":
            return None
        return tuple(episode.picture.copy() for episode in self._episodes)

    def close_extras(self, **_: Any) -> None:
        """End the sessions, and the world if it was loaded here."""
        for episode in self._episodes:
            episode.session.close()
        self._pool.shutdown()
        if self._own:
            self.world.close()

    def _reset(self, index: int, seed: int | None, options: dict[str, Any] | None) -> dict[str, Any]:
        info = self._episodes[index].reset(seed, self._rngs[index], options)
        self._elapsed[index], self._truncated[index] = 0, False
        return info

    def _step(self, due: list[int], actions: list[Any]) -> dict[int, Tick]:
        """Step these sub-environments, each on a thread of its own, so that their ticks share engine calls."""
        posted = {index: self._pool.submit(self._episodes[index].step, actions[index]) for index in due}
        errors = {index: future.exception() for index, future in posted.items()}  # waits for all of them
        failed = [error for error in errors.values() if error is not None]
        if failed:
            for index in due:
                if errors[index] is None:
                    self._episodes[index].session.rewind(1)
            raise failed[0]
        return {index: future.result() for index, future in posted.items()}

    def _each(self, actions: Any) -> list[Any]:
        """One action per sub-environment."""
        if self.closed:
            raise SessionError("the environment is closed")
        try:
            each = list(iterate(self.action_space, actions))
        except TypeError:  # a single number
            each = []
        if len(each) != self.num_envs:
            raise ActionError(f"actions: expected one per sub-environment, {self.num_envs}, got {actions!r:.60}")
        return each

    def _frames(self) -> np.ndarray:
        return np.stack([episode.frame for episode in self._episodes])

    def _seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, (int, np.integer)):
            return [int(seed) + index for index in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise SessionError(f"seed: expected one per sub-environment, {self.num_envs}, got {len(seed)}")
        return list(seed)

    def _options(self, options: dict[str, Any] | None) -> list[dict[str, Any] | None]:
        context = (options or {}).get("context")
        if not isinstance(context, (Sequence, np.ndarray)):
            return [options] * self.num_envs
        if len(context) != self.num_envs:
            raise SessionError(
                f"options['context']: expected one per sub-environment, {self.num_envs}, got {len(context)}"
            )
        return [{"context": one} for one in context]
