"""Orchard: a small Gymnasium environment to try one's own world with. Apples fall, a basket catches them.

What the basket does follows from the action alone, and a squirrel takes every apple back up, to the other side; how
fast it falls then, nobody knows. So a neural world of it has both: frames that one denoising step draws as well as
three, and frames of which it cannot be sure.

    python -m exporters.recording record-env examples.own_world.orchard:Orchard-v0 --out data/orchard
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np

SIZE = 64
ACTIONS = ("stay", "left", "right")
APPLES = 3
_BASKET_ROW, _BASKET_HALF, _BASKET_STEP = 56, 7, 3
_APPLE_RADIUS = 3.5
_SKY, _LEAVES, _GRASS, _WICKER, _APPLE, _SPLASH = (
    np.array(colour, np.float32)
    for colour in ((150, 200, 235), (52, 120, 60), (96, 160, 72), (150, 100, 50), (205, 40, 45), (240, 230, 120))
)


class Orchard(gymnasium.Env[np.ndarray, int]):
    """Observes where everything is, float32[1 + 3 * APPLES]; renders uint8[64, 64, 3]. 12 steps a second, no end."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 12}

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.action_space = gymnasium.spaces.Discrete(len(ACTIONS))
        self.observation_space = gymnasium.spaces.Box(-SIZE, 2 * SIZE, (1 + 3 * APPLES,), np.float32)
        rows, columns = np.mgrid[:SIZE, :SIZE].astype(np.float32)
        self._rows, self._columns = rows, columns
        canopy = 9 + 2 * np.sin(columns / 4)
        self._backdrop = np.where((rows < canopy)[..., None], _LEAVES, _SKY)
        self._backdrop[rows[:, 0] >= 60] = _GRASS

    def get_action_meanings(self) -> list[str]:
        """As the Atari environments say it; `record-env` names the actions so."""
        return list(ACTIONS)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._basket = float(self.np_random.integers(_BASKET_HALF, SIZE - _BASKET_HALF))
        columns = self.np_random.uniform(5, SIZE - 6, APPLES)
        self._apples = np.array([self._hung(column) for column in columns])  # column, row, fall per step
        self._apples[:, 1] = self.np_random.uniform(10, 45, APPLES)
        self._splash = 0
        return self._observe(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        way = {"stay": 0, "left": -1, "right": 1}[ACTIONS[action]]
        self._basket = float(np.clip(self._basket + way * _BASKET_STEP, _BASKET_HALF, SIZE - 1 - _BASKET_HALF))
        self._splash = max(0, self._splash - 1)
        self._apples[:, 1] += self._apples[:, 2]
        reward = 0.0
        for apple in self._apples:
            if apple[1] >= _BASKET_ROW and abs(apple[0] - self._basket) <= _BASKET_HALF:
                reward, self._splash = reward + 1.0, 3
                apple[:] = self._hung(SIZE - 1 - apple[0])
            elif apple[1] > SIZE:
                apple[:] = self._hung(SIZE - 1 - apple[0])
        return self._observe(), reward, False, False, {}

    def render(self) -> np.ndarray:  # type: ignore[override]
        picture = self._backdrop.copy()
        for column, row, _ in self._apples:
            near = np.hypot(self._columns - column, self._rows - row)
            cover = np.clip(_APPLE_RADIUS + 0.5 - near, 0, 1)[..., None]  # a soft edge, half a pixel to either side
            picture = picture * (1 - cover) + _APPLE * cover
        off = np.abs(self._columns - self._basket)
        tapered = off <= _BASKET_HALF - (self._rows - _BASKET_ROW) / 3
        basket = tapered & (self._rows >= _BASKET_ROW) & (self._rows < _BASKET_ROW + 6)
        picture[basket] = _WICKER
        rim = (off <= _BASKET_HALF + 1) & (np.abs(self._rows - _BASKET_ROW) < 1)
        picture[rim] = _SPLASH if self._splash else _WICKER * 0.7
        return picture.astype(np.uint8)

    def _hung(self, column: float) -> np.ndarray:
        return np.array([column, 6.0, self.np_random.uniform(1.0, 2.2)])

    def _observe(self) -> np.ndarray:
        return np.concatenate([[self._basket], self._apples.ravel()]).astype(np.float32)


def player(observation: np.ndarray, rng: np.random.Generator) -> int:
    """Goes for the lowest apple that it can still reach; for `record-env --policy`."""
    basket, apples = float(observation[0]), observation[1:].reshape(APPLES, 3)
    steps_left = (_BASKET_ROW - apples[:, 1]) / apples[:, 2]
    reachable = apples[np.abs(apples[:, 0] - basket) <= np.maximum(steps_left, 0) * _BASKET_STEP + _BASKET_HALF]
    if not len(reachable):
        return 0
    way = reachable[np.argmax(reachable[:, 1]), 0] - basket
    return 0 if abs(way) < _BASKET_STEP else (1 if way < 0 else 2)


gymnasium.register("Orchard-v0", entry_point="examples.own_world.orchard:Orchard", max_episode_steps=600)
