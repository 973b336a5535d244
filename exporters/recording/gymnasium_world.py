"""Any Gymnasium environment, as an environment to record from.

Its pictures are what it renders ("rgb_array") or what it observes, where that is a picture, box-averaged down to the
frame's size. When an episode of its own ends it is reset with the next seed and the recording goes on (`cut`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .environment import Observation, Transition
from .episode import DatasetError, Episode
from .gymnasium_actions import ActionMap
from .lookup import lookup
from .picture import as_rgb, check_size, frame_of, shrink

RENDER, OBSERVATION = "render", "observation"
SHORTEST_STRETCH = 10
"""Pictures without a reset that each held-out recording must have: 8 to start from, one before, and one more."""


@dataclass(frozen=True)
class GymnasiumConfig:
    """Which environment, how it is shown and stepped, and who plays it."""

    id: str
    """As for `gymnasium.make`: "CartPole-v1", or "module:Name-v0", which imports the module first."""
    height: int = 64
    width: int = 64
    """Of the frame, in pixels."""
    repeat: int = 1
    """Steps of the environment, with one action, per picture."""
    fps: float | None = None
    """Pictures a second; by default the environment's `render_fps` over `repeat`."""
    pictures: str = RENDER
    """"render", or "observation" where the environment observes pictures."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """For `gymnasium.make`."""
    wrappers: tuple[str, ...] = ()
    """"module:callable" each, applied in this order."""
    names: tuple[str, ...] = ()
    """Of the actions; by default what the environment calls them, or numbers."""
    policy: str = "random"
    """"random", or "module:name" of a player (`gymnasium_policies.OwnPolicy`)."""
    random_share: float = 0.3
    """Share of the segments that the random player has beside one's own."""
    hold_s: float = 0.3
    """Seconds for which the random player holds an action, on average."""
    licence: str = "unknown"
    """Of the pictures."""

    def __post_init__(self) -> None:
        if not (16 <= self.height <= 256 and 16 <= self.width <= 256 and self.height % 16 == self.width % 16 == 0):
            raise ValueError(f"size: {self.width}x{self.height}; both must be multiples of 16 in 16..256")
        if self.repeat < 1:
            raise ValueError(f"repeat: must be at least 1, got {self.repeat}")
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise ValueError(f"fps: must lie in (0, 1000], got {self.fps}")
        if self.pictures not in (RENDER, OBSERVATION):
            raise ValueError(f"pictures: {self.pictures!r} is neither {RENDER!r} nor {OBSERVATION!r}")
        if not 0 <= self.random_share <= 1:
            raise ValueError(f"random_share: must lie in [0, 1], got {self.random_share}")
        if not 0 < self.hold_s < math.inf:
            raise ValueError(f"hold_s: must be a positive number, got {self.hold_s}")


class GymnasiumWorld:
    """Implements `Environment`; `close()` closes the Gymnasium one."""

    state_names: tuple[str, ...] = ()

    def __init__(self, config: GymnasiumConfig):
        self.config = config
        self._environment = make_environment(config)
        try:
            self.actions = ActionMap.of(self._environment.action_space, config.names or _names(self._environment))
            self.action_space = self.actions.space
            picture = self._first_picture()
            check_size(picture, config.height, config.width, config.id)
            self.frame = frame_of(picture, config.height, config.width, self._fps())
        except BaseException:
            self._environment.close()
            raise

    def reset(self, seed: int) -> Observation:
        """Starts an episode of the environment's; all that follows is a function of `seed` and the actions."""
        self._seeds = np.random.default_rng([seed, 1])
        native, _ = self._environment.reset(seed=seed % 2**31)
        return self._observe(native)

    def step(self, action: Any) -> Transition:
        """Holds the action for `repeat` steps. Where the episode ends, the next one begins at once (`cut`)."""
        paid, cut = 0.0, False
        for _ in range(self.config.repeat):
            native, reward, terminated, truncated, _ = self._environment.step(self.actions.native(action))
            paid += float(reward)
            if terminated or truncated:
                native, _ = self._environment.reset(seed=int(self._seeds.integers(2**31)))
                cut = True
                break
        return Transition(self._observe(native), paid, cut)

    def close(self) -> None:
        self._environment.close()

    def _observe(self, native: Any) -> Observation:
        picture = shrink(self._picture(native), self.config.height, self.config.width)
        return Observation(picture, np.empty(0, np.float32), native=native)

    def _picture(self, native: Any) -> np.ndarray:
        if self.config.pictures == OBSERVATION:
            return as_rgb(native, f"{self.config.id}: its observation")
        return as_rgb(self._environment.render(), f"{self.config.id}: what it renders")

    def _first_picture(self) -> np.ndarray:
        try:
            native, _ = self._environment.reset(seed=0)
            if self.config.pictures == RENDER:
                self._environment.render()
        except Exception as error:  # somebody else's code runs here, and what it draws with may not be installed
            reason = " ".join(str(error).split())
            raise ValueError(f"id: {self.config.id} cannot be drawn: {type(error).__name__}: {reason}") from error
        return self._picture(native)

    def _fps(self) -> float:
        if self.config.fps is not None:
            return self.config.fps
        rate = self._environment.metadata.get("render_fps")
        if not rate:
            raise ValueError(f"fps: {self.config.id} does not say at which rate it runs (render_fps); give --fps")
        return float(rate) / self.config.repeat


def make_environment(config: GymnasiumConfig) -> Any:
    """The Gymnasium environment in its wrappers. ValueError names what does not work and what to do."""
    try:
        import gymnasium
    except ImportError:
        raise ValueError("gymnasium is not installed: pip install gymnasium") from None
    wrappers = [lookup(target, "wrapper") for target in config.wrappers]
    arguments = dict(config.arguments)
    if config.pictures == RENDER:
        arguments["render_mode"] = "rgb_array"
    try:
        environment = gymnasium.make(config.id, disable_env_checker=True, **arguments)
    except Exception as error:  # somebody else's code runs here
        reason = " ".join(str(error).split())
        raise ValueError(
            f"id: gymnasium.make({config.id!r}) failed: {type(error).__name__}: {reason}; if the environment lives"
            " in a module of its own, name that too: MODULE:NAME-v0, with the module on PYTHONPATH"
        ) from error
    for wrapper in wrappers:
        environment = wrapper(environment)
    return environment


def observes_pictures(environment: Any, height: int, width: int) -> bool:
    """Whether the environment's observation is a picture at least as large as the frame."""
    space = environment.observation_space
    if space.shape is None or space.dtype != np.uint8:
        return False
    try:
        picture = as_rgb(np.zeros(space.shape, np.uint8), "observation")
    except ValueError:
        return False
    return picture.shape[0] >= height and picture.shape[1] >= width


def check_moving(episode: Episode, where: str) -> None:
    """Raises DatasetError if nothing ever happens in a recording: the environment draws nothing, for example."""
    if not (episode.frames[1:] != episode.frames[:-1]).any():
        raise DatasetError(f"{where}: all pictures are the same; look at what the environment renders")


def check_unbroken(episode: Episode, where: str) -> None:
    """Raises DatasetError for a recording in which no start context finds room."""
    if not len(episode.window_starts(SHORTEST_STRETCH)):
        raise DatasetError(
            f"{where}: never {SHORTEST_STRETCH} pictures without a reset; give a --policy that survives, or fewer"
            " steps per picture (--repeat)"
        )


def _names(environment: Any) -> tuple[str, ...]:
    """What the environment calls its actions, where it says so (as the Atari ones do)."""
    meanings = getattr(environment.unwrapped, "get_action_meanings", None)
    return tuple(str(name).lower() for name in meanings()) if meanings is not None else ()
