"""Records a world: several processes play, each file is one seed, the dataset grows in order."""

from __future__ import annotations

import atexit
import multiprocessing
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from .dataset import Dataset, DatasetWriter, episode_path
from .environment import Environment
from .episode import Episode, action_array_type, validate_episode, write_episode
from .policies import Policy
from .worlds import KINDS, WorldKind, world_settings


@dataclass(frozen=True)
class RecordConfig:
    """What to record: the table [recording] of a recipe.

    `frames` counts steps per split; each split takes its seeds from its own range. Splits are recorded in the order of
    `frames`; the small ones come first so that a trainer can start early.
    """

    environment: str = "vizdoom"
    """A key of `worlds.KINDS`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The environment's own configuration, as a table."""
    frames: Mapping[str, int] = field(default_factory=lambda: {"validation": 8_000, "test": 8_000, "train": 120_000})
    first_seed: Mapping[str, int] = field(
        default_factory=lambda: {"train": 1_000_000, "validation": 2_000_000, "test": 3_000_000}
    )
    steps_per_episode: int = 2_000
    workers: int = 2
    compress: bool = False

    def __post_init__(self) -> None:
        if self.steps_per_episode < 1 or self.workers < 1:
            raise ValueError("steps_per_episode and workers must be at least 1")
        for split, frames in self.frames.items():
            if frames < 1:
                raise ValueError(f"split {split!r} needs at least one frame, got {frames}")
            if split not in self.first_seed:
                raise ValueError(f"split {split!r} has no first_seed")
        world_settings(self.environment, self.settings)

    @property
    def kind(self) -> WorldKind:
        return KINDS[self.environment]

    @property
    def world(self) -> Any:
        """The environment's configuration."""
        return world_settings(self.environment, self.settings)

    def episode_steps(self, split: str) -> list[int]:
        """Steps of each episode of a split; the last one takes what is left."""
        whole, rest = divmod(self.frames[split], self.steps_per_episode)
        return [self.steps_per_episode] * whole + ([rest] if rest else [])


def play(environment: Environment, policy: Policy, seed: int, steps: int) -> Episode:
    """Plays `steps` steps from a fresh reset. Equal arguments give equal episodes."""
    rng = np.random.default_rng(seed)
    height, width = environment.frame["height"], environment.frame["width"]
    frames = np.empty((steps + 1, height, width, 3), dtype=np.uint8)
    state = np.empty((steps + 1, len(environment.state_names)), dtype=np.float32)
    action_dtype, action_shape = action_array_type(environment.action_space)
    actions = np.empty((steps, *action_shape), dtype=action_dtype)
    reward = np.empty(steps, dtype=np.float32)
    cut = np.zeros(steps + 1, dtype=np.bool_)

    observation = environment.reset(seed)
    policy.begin(rng)
    frames[0], state[0] = observation.frame, observation.state
    for step in range(steps):
        actions[step] = policy.act(observation)
        transition = environment.step(actions[step] if action_shape else int(actions[step]))
        observation = transition.observation
        frames[step + 1], state[step + 1] = observation.frame, observation.state
        reward[step], cut[step + 1] = transition.reward, transition.cut
    return Episode(frames, actions, cut, reward, state)


def record(config: RecordConfig, name: str, folder: str | Path) -> Dataset:
    """Records every split with a progress bar and prints the speed. Refuses a folder that holds a dataset."""
    folder, world = Path(folder).resolve(), config.world
    probe = config.kind.make(world)
    try:
        writer = DatasetWriter.create(
            folder,
            name=name,
            frame=probe.frame,
            action_space=probe.action_space,
            state=probe.state_names,
            licence=config.kind.licence(world),
            source=config.kind.source(world),
            recorder={
                "environment": config.environment,
                "settings": asdict(world),
                "policy": config.kind.policy(world, probe).description,
                "steps_per_episode": config.steps_per_episode,
            },
        )
    finally:
        probe.close()

    total = sum(config.frames.values())
    started = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with (
        tqdm(total=total, unit="frame", desc=f"recording {name}") as bar,
        ProcessPoolExecutor(config.workers, mp_context=context, initializer=_start_worker, initargs=(config,)) as pool,
    ):
        for split in config.frames:
            (folder / split).mkdir(exist_ok=True)
            first = config.first_seed[split]
            jobs = [
                (str(episode_path(folder, split, index)), first + index, steps)
                for index, steps in enumerate(config.episode_steps(split))
            ]
            # map() answers in order, so the description never counts a file whose predecessor is missing.
            for (_, seed, steps), pictures in zip(jobs, pool.map(_record_one, jobs), strict=True):
                writer.register(split, frames=pictures, seed=seed)
                bar.update(steps)
    elapsed_s = time.perf_counter() - started
    print(f"{total} frames in {elapsed_s:.1f} s: {total / elapsed_s:.0f} frames/s with {config.workers} workers")
    return writer.finish()


_worker: tuple[Environment, Policy, RecordConfig] | None = None


def _start_worker(config: RecordConfig) -> None:
    global _worker
    environment = config.kind.make(config.world)
    atexit.register(environment.close)
    _worker = (environment, config.kind.policy(config.world, environment), config)


def _record_one(job: tuple[str, int, int]) -> int:
    assert _worker is not None
    environment, policy, config = _worker
    path, seed, steps = job
    episode = play(environment, policy, seed, steps)
    validate_episode(episode, environment.frame, environment.action_space, environment.state_names, where=path)
    config.kind.check(environment, episode, path)
    write_episode(Path(path), episode, compress=config.compress)
    return len(episode.frames)
