"""A test fixture: Gymnasium environments in which a square slides as told, in every kind of action space."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np

HEIGHT, WIDTH = 32, 64
SPACES = {
    "discrete": lambda: gymnasium.spaces.Discrete(3, start=-1),
    "buttons": lambda: gymnasium.spaces.MultiBinary(2),
    "stick": lambda: gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32),
    "fine": lambda: gymnasium.spaces.Box(-0.1, 0.1, (1,), np.float64),
    "free": lambda: gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32),
    "text": lambda: gymnasium.spaces.Text(3),
}


class Slider(gymnasium.Env):
    """`life`: steps until it ends; `wobble`: whether pictures depend on more than seed and actions."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 60}
    made = 0

    def __init__(
        self,
        render_mode: str | None = None,
        actions: str = "discrete",
        life: int = 20,
        sees: bool = False,
        wobble: bool = False,
        frozen: bool = False,
        undrawn: bool = False,
    ) -> None:
        self.render_mode, self.life, self.sees, self.wobble, self.frozen = render_mode, life, sees, wobble, frozen
        self.undrawn = undrawn
        self.action_space = SPACES[actions]()
        picture = gymnasium.spaces.Box(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        self.observation_space = picture if sees else gymnasium.spaces.Box(-WIDTH, WIDTH, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        Slider.made += 1
        self.place, self.age = float(self.np_random.integers(8, WIDTH - 16)), 0
        self.shade = 40 + Slider.made % 100 if self.wobble else 40
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        way = float(action[1]) - float(action[0]) if np.shape(action) == (2,) else float(np.sum(action))
        self.place = float(np.clip(self.place + 2 * way, 0, WIDTH - 8))
        self.age += 1
        return self._observe(), way, self.age >= self.life, False, {}

    def render(self) -> Any:
        if self.undrawn:
            raise gymnasium.error.DependencyNotInstalled("pygame is not installed")
        picture = np.full((HEIGHT, WIDTH, 3), self.shade, np.uint8)
        if not self.frozen:
            left = round(self.place)
            picture[12:20, left : left + 8] = (230, 200, 60)
        return picture

    def _observe(self) -> Any:
        return self.render() if self.sees else np.array([self.place, self.age], np.float32)


class Homing:
    """A player: goes to the middle, and remembers what it did."""

    def __init__(self) -> None:
        self.done: list[int] = []

    def __call__(self, observation: np.ndarray, rng: np.random.Generator) -> int:
        self.done.append(int(np.sign(WIDTH / 2 - observation[0])))
        return self.done[-1]


def astray(observation: np.ndarray, rng: np.random.Generator) -> int:
    """A player that knows an action too many."""
    return 7


def vague(observation: np.ndarray, rng: np.random.Generator) -> float:
    """A player that returns no action at all."""
    return 1.0


def mirrored(environment: gymnasium.Env) -> gymnasium.Env:
    """A wrapper: left is right."""
    return gymnasium.wrappers.TransformAction(environment, lambda action: -action, environment.action_space)


gymnasium.register("Slider-v0", entry_point="tests.recording.slider:Slider")
