"""WorldEnv: a neural world as a Gymnasium environment."""

from __future__ import annotations

import os
from typing import Any

import gymnasium
import numpy as np

from ..actions import ActionSpace
from ..world import World, load_world
from . import spaces
from .episode import Episode, EpisodeConfig
from .reward import Reward, no_reward


class WorldEnv(gymnasium.Env[np.ndarray, Any]):
    """One session. An observation is a frame, `uint8[H, W, 3]`, or all F pictures of a tick, `uint8[F, H, W, 3]`, in
    worlds that draw several; episodes do not end by themselves, `make` cuts them.

    The same seed and actions give the same frames, unless a budget brings the clock in. `info` has what was decided:
    `steps`, `confidence`, `threshold`, `stopped_by`, `status`; with a budget also `slack_ms` and `total_ms`.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012  # and `render_fps`

    def __init__(
        self,
        world: World | str | os.PathLike[str] | None = None,
        *,
        reward: Reward = no_reward,
        budget_ms: float | None = None,
        threshold: float | None = None,
        steps: int | None = None,
        threads: int | None = None,
        prompt: str | np.ndarray | None = None,
        render_mode: str | None = None,
    ) -> None:
        """
        world         package folder, archive or name of a bundled world, loaded for this environment; or a loaded
                      world, shared and left open
        reward        what a step is worth, from its pictures; see `Reward`
        budget_ms     wall time per step; None for no clock: the confidence alone decides how many steps a frame gets
        threshold     confidence that is enough; None for the world's
        steps         exactly this many denoising steps per frame; None for the world's choice
        threads       threads per graph of a world that is loaded here
        prompt        text of a world that takes one, as in `World.session`; None for its first

        Raises as `load_world` and `World.session`.
        """
        self._own = not isinstance(world, World)
        self.world = load_world(world, threads=threads) if not isinstance(world, World) else world
        try:
            config = EpisodeConfig(budget_ms, threshold, steps)
            config.check(self.world.spec.schedule.steps)
            self._episode = Episode(self.world, self.world.session(threshold=threshold, prompt=prompt), config)
        except BaseException:
            if self._own:
                self.world.close()
            raise
        spec = self.world.spec
        self.observation_space = spaces.observation_space(spec.frame)
        self.action_space = spaces.action_space(spec.action_space)
        self.metadata = {**self.metadata, "render_fps": spec.frame.fps / spec.frame.frames_per_tick}
        self.render_mode = render_mode
        self._reward = reward

    @property
    def actions(self) -> ActionSpace:
        """The action space with its names and units."""
        return self.world.spec.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """The last picture of a start context: that of the seed, or `options={"context": k}`."""
        super().reset(seed=seed)
        info = self._episode.reset(seed, self.np_random, options)
        return self._episode.frame.copy(), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One tick. Raises as `Session.step`, and is then as before."""
        before, tick = self._episode.frame, self._episode.step(action)
        info = self._episode.arrive(tick)
        reward = float(self._reward(before, action, self._episode.frame, info))
        return self._episode.frame.copy(), reward, False, False, info

    def render(self) -> np.ndarray | None:
        """The newest picture in mode `rgb_array`, else None."""
        return self._episode.picture.copy() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """End the session, and the world if it was loaded here. Idempotent."""
        self._episode.session.close()
        if self._own:
            self.world.close()
