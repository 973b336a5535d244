"""A test fixture: two coloured dots, of which red is pushed now and then, and a bar that a velocity turns."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from exporters.evaluation.config import EvaluationConfig, StateColumns
from exporters.evaluation.state.probe import StateProbe, StateReading
from exporters.recording.dataset import Dataset, DatasetWriter
from exporters.recording.environment import Observation, Transition
from exporters.recording.episode import Episode

FPS = 10.0
TOP_RAD_S = 1.5
LIMIT_RAD = 1.2
SPACE = {
    "type": "Box",
    "low": [-1.0, -TOP_RAD_S],
    "high": [1.0, TOP_RAD_S],
    "names": ["nothing", "turn"],
    "units": ["", "rad/s"],
}
STATE = ("bar_rad", "red_x_m", "red_y_m", "green_x_m", "green_y_m", "jumped")
COLUMNS = StateColumns(
    points={"red": ("red_x_m", "red_y_m"), "green": ("green_x_m", "green_y_m")},
    angles=("bar_rad",),
    movers=("red", "green"),
    jumps="jumped",
)
EVALUATION = EvaluationConfig(COLUMNS, {"turn": "bar_rad"})


def draw(points: np.ndarray, angle: np.ndarray, size: int) -> np.ndarray:
    """uint8[N, size, size, 3] of points float[N, 2, 2] (x, y in -1 .. 1, y up; red, green) and bar angles float[N]."""
    rows, columns = np.mgrid[:size, :size]
    x, y = (columns - (size - 1) / 2) / (size / 2), ((size - 1) / 2 - rows) / (size / 2)
    frames = np.full((len(points), size, size, 3), 40, np.uint8)
    sine, cosine = (f(angle)[:, None, None] for f in (np.sin, np.cos))
    along, across = x * cosine + y * sine, y * cosine - x * sine
    frames[(along > 0) & (along < 0.6) & (np.abs(across) < 0.06)] = 230
    for index, colour in enumerate(((220, 30, 30), (30, 190, 60))):
        off = np.hypot(x - points[:, index, 0, None, None], y - points[:, index, 1, None, None])
        frames[off < 0.16] = colour
    return frames


class DotsWorld:
    """An `Environment`: the bar obeys its velocity at once and stops at its limits."""

    action_space = SPACE
    state_names = STATE

    def __init__(self, size: int = 64) -> None:
        self.frame = {"height": size, "width": size, "channels": 3, "fps": FPS}

    def reset(self, seed: int) -> Observation:
        self._rng = np.random.default_rng(seed)
        self._angle, self._left = float(self._rng.uniform(-0.3, 0.3)), 0
        self._points, self._velocity = self._rng.uniform(-0.7, 0.7, (2, 2)), np.zeros(2)
        return self._observe(False)

    def step(self, action: np.ndarray) -> Transition:
        self._angle = float(np.clip(self._angle + action[1] / FPS, -LIMIT_RAD, LIMIT_RAD))
        if self._left == 0:
            self._left = int(self._rng.integers(6, 16))
            self._velocity = self._rng.normal(0.0, 0.04, 2) * (self._rng.random() < 0.5)
        self._left -= 1
        self._points[0] += self._velocity
        jumped = bool(np.abs(self._points[0]).max() > 0.8)
        if jumped:
            self._points[0] = self._rng.uniform(-0.7, 0.7, 2)
        return Transition(self._observe(jumped), 0.0, False)

    def close(self) -> None:
        pass

    def _observe(self, jumped: bool) -> Observation:
        picture = draw(self._points[None], np.array([self._angle]), self.frame["height"])[0]
        return Observation(picture, np.array([self._angle, *self._points.ravel(), jumped], np.float32))


class DotsPlayer:
    """A `Policy`: random velocities."""

    name = "random"

    def begin(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def act(self, observation: Observation) -> np.ndarray:
        return np.array([0.0, self._rng.uniform(-TOP_RAD_S, TOP_RAD_S)], np.float32)


class DotsProbe(StateProbe):
    """Reads the state by colour, which is exact here up to the size of a pixel."""

    def __init__(self) -> None:
        self.columns = COLUMNS

    def used_to(self, pictures: np.ndarray) -> DotsProbe:
        return self

    def read(self, pictures: np.ndarray, *, batch: int = 256) -> StateReading:
        size = pictures.shape[1]
        rows, columns = np.mgrid[:size, :size]
        x, y = (columns - (size - 1) / 2) / (size / 2), ((size - 1) / 2 - rows) / (size / 2)
        red, green, blue = (pictures[..., channel].astype(int) for channel in range(3))
        masks = [(red > 150) & (green < 100), (green > 150) & (red < 100)]
        points = np.stack([np.stack([_mean(mask, x), _mean(mask, y)], axis=1) for mask in masks], axis=1)
        present = np.stack([mask.sum(axis=(1, 2)) > 10 for mask in masks], axis=1)
        bar = blue > 150
        angles = np.arctan2(_mean(bar, y), _mean(bar, x))[:, None]
        return StateReading(points, present, angles, np.ones_like(angles))


def dots_episode(seed: int, steps: int, size: int = 64) -> Episode:
    """A recording of `DotsWorld` under `DotsPlayer`, every action held for five frames."""
    world, player = DotsWorld(size), DotsPlayer()
    player.begin(np.random.default_rng(seed))
    seen = [world.reset(seed)]
    actions = np.repeat([player.act(seen[0]) for _ in range(steps // 5 + 1)], 5, axis=0)[:steps]
    seen += [world.step(action).observation for action in actions]
    frames, state = np.stack([each.frame for each in seen]), np.stack([each.state for each in seen])
    return Episode(frames, actions, np.zeros(steps + 1, np.bool_), np.zeros(steps, np.float32), state)


def recorded_dots(folder: Path, steps: int = 150, size: int = 64) -> Dataset:
    """A dataset of the dots world."""
    writer = DatasetWriter.create(
        folder,
        name="dots",
        frame={"height": size, "width": size, "channels": 3, "fps": FPS},
        action_space=SPACE,
        licence="CC0",
        source="test",
        state=STATE,
    )
    for split, seeds in {"train": (0, 1, 2, 3), "validation": (100,), "test": (200, 201)}.items():
        for seed in seeds:
            writer.add(split, dots_episode(seed, steps, size), seed=seed)
    return writer.finish()


def scattered_dots(folder: Path, frames: int, size: int = 32) -> Dataset:
    """A dataset whose frames have nothing to do with each other: every one is a reset."""
    writer = DatasetWriter.create(
        folder,
        name="dots",
        frame={"height": size, "width": size, "channels": 3, "fps": FPS},
        action_space=SPACE,
        licence="CC0",
        source="test",
        state=STATE,
    )
    for split, seed in {"train": 0, "validation": 1, "test": 2}.items():
        rng = np.random.default_rng(seed)
        points, angle = apart(rng, frames), rng.uniform(-LIMIT_RAD, LIMIT_RAD, frames)
        state = np.concatenate([angle[:, None], points.reshape(-1, 4), np.zeros((frames, 1))], axis=1)
        nothing = np.zeros((frames - 1, 2), np.float32), np.arange(frames) > 0, np.zeros(frames - 1, np.float32)
        writer.add(split, Episode(draw(points, angle, size), *nothing, state.astype(np.float32)), seed=seed)
    return writer.finish()


def apart(rng: np.random.Generator, count: int) -> np.ndarray:
    """float64[count, 2, 2]: random places of the dots at which neither hides the other."""
    points = rng.uniform(-0.7, 0.7, (4 * count, 2, 2))
    free: np.ndarray = points[np.linalg.norm(points[:, 0] - points[:, 1], axis=1) > 0.35][:count]
    return free


def _mean(mask: np.ndarray, values: np.ndarray) -> np.ndarray:
    """float32[N]: mean of values[H, W] where mask[N, H, W]; 0 where nothing is."""
    counts = np.maximum(mask.sum(axis=(1, 2)), 1)
    return np.asarray((mask * values).sum(axis=(1, 2)) / counts, dtype=np.float32)
