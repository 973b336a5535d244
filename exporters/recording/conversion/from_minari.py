"""Minari datasets: those that hold pictures, and those whose environment can be played again and rendered."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..episode import DatasetError
from ..gymnasium_actions import ActionMap
from ..picture import as_rgb
from .source import Recordings, Source


def minari_recordings(dataset_id: str, camera: str | None, fps: float | None) -> Recordings:
    """All episodes of a local dataset, by its id or the path of its folder.

    `camera`: the key of the pictures among the observations; `fps` where the dataset's environment does not say its
    rate. Without pictures the recorded actions are played again, and every observation must be the recorded one.
    """
    data = _load(dataset_id)
    try:
        actions = ActionMap.of(data.spec.action_space)
    except ValueError as error:
        raise DatasetError(f"{dataset_id}: {error}") from None
    key = _picture_key(data.spec.observation_space, camera, dataset_id)
    rate = fps or _rate(data, dataset_id)
    sources = []
    for index in data.episode_indices:
        episode = next(iter(data.iterate_episodes([int(index)])))
        where = f"{dataset_id}, episode {int(index)}"
        taken = np.array([actions.recorded(action, where) for action in episode.actions])
        paid, read = np.asarray(episode.rewards, np.float32), _replayed if key is None else _observed
        sources.append(Source(where, taken, paid, partial(read, data, int(index), where, key or "")))
    if not sources:
        raise DatasetError(f"{dataset_id}: it has no episodes")
    origin = f"Minari dataset {dataset_id}" + (", rendered again" if key is None else "")
    return Recordings(sources, rate, actions.space, origin)


def _load(dataset_id: str) -> Any:
    try:
        import minari
    except ImportError:
        raise DatasetError(
            "minari: not installed: pip install 'dsa-runtime[convert]', or pip install 'minari[hdf5]'"
        ) from None
    folder = Path(dataset_id)
    try:
        if folder.is_dir():
            return minari.MinariDataset(folder / "data" if (folder / "data").is_dir() else folder)
        return minari.load_dataset(dataset_id)
    except FileNotFoundError:
        raise DatasetError(
            f"{dataset_id}: neither a folder nor a local Minari dataset; `minari download {dataset_id}` brings it"
        ) from None
    except (ImportError, ValueError, KeyError, OSError) as error:
        raise DatasetError(f"{dataset_id}: Minari cannot read it ({type(error).__name__}: {error})") from error


def _picture_key(space: Any, camera: str | None, where: str) -> str | None:
    """Where the pictures are: "" if the observation is one, None if there are none."""
    inner = getattr(space, "spaces", None)
    if not isinstance(inner, dict):
        if camera is not None:
            raise DatasetError(f"camera: the observations of {where} have no parts to choose from")
        return "" if _is_picture(space) else None
    keys = [key for key, part in inner.items() if _is_picture(part)]
    if camera is not None:
        if camera not in keys:
            raise DatasetError(f"camera: {camera!r} is no picture of {where}; it has: {', '.join(keys) or 'none'}")
        return camera
    if len(keys) > 1:
        raise DatasetError(f"camera: {where} has several; choose one of {', '.join(keys)} with --camera")
    return keys[0] if keys else None


def _is_picture(space: Any) -> bool:
    if getattr(space, "dtype", None) != np.uint8 or space.shape is None:
        return False
    try:
        return min(as_rgb(np.zeros(space.shape, np.uint8), "").shape[:2]) >= 16
    except ValueError:
        return False


def _rate(data: Any, where: str) -> float:
    spec = data.spec.env_spec
    try:
        environment = None if spec is None else data.recover_environment()
    except Exception:  # somebody else's code: whatever it lacks, only its rate is missing here
        environment = None
    if environment is None:
        raise DatasetError(f"fps: {where} does not say its rate, and its environment cannot be made here; give --fps")
    rate = environment.metadata.get("render_fps")
    environment.close()
    if not rate:
        raise DatasetError(f"fps: the environment of {where} does not say its rate; give --fps")
    return float(rate)


def _observed(data: Any, index: int, where: str, key: str) -> Iterator[np.ndarray]:
    episode = next(iter(data.iterate_episodes([index])))
    pictures = episode.observations[key] if key else episode.observations
    for picture in pictures:
        yield as_rgb(picture, where)


def _replayed(data: Any, index: int, where: str, key: str) -> Iterator[np.ndarray]:
    """The pictures of an episode that holds none (no `key`)."""
    episode = next(iter(data.iterate_episodes([index])))
    (about,) = data.storage.get_episode_metadata([index])
    seed = about.get("seed")
    if seed is None:
        raise DatasetError(
            f"{where}: it holds no pictures, and no seed with which its environment could be played again"
        )
    os.environ.setdefault("MUJOCO_GL", "osmesa")  # without a display nothing else draws; unused by other environments
    try:
        environment = data.recover_environment(render_mode="rgb_array")
    except Exception as error:  # somebody else's code
        reason = " ".join(str(error).split())
        raise DatasetError(f"{where}: it holds no pictures, and its environment cannot be made: {reason}") from error
    try:
        seen, _ = environment.reset(seed=int(seed), options=about.get("options"))
        for step in range(len(episode.actions) + 1):
            if not _same(seen, _at(episode.observations, step)):
                raise DatasetError(
                    f"{where}: played again, it differs from step {step} on; install the versions it was recorded"
                    f" with: {data.storage.metadata.get('requirements') or 'unknown'}"
                )
            yield as_rgb(environment.render(), where)
            if step < len(episode.actions):
                seen, *_ = environment.step(episode.actions[step])
    finally:
        environment.close()


def _at(observations: Any, step: int) -> Any:
    if isinstance(observations, dict):
        return {key: _at(part, step) for key, part in observations.items()}
    if isinstance(observations, tuple):
        return tuple(_at(part, step) for part in observations)
    return observations[step]


def _same(seen: Any, recorded: Any) -> bool:
    if isinstance(recorded, dict):
        return all(_same(seen[key], part) for key, part in recorded.items())
    if isinstance(recorded, tuple):
        return all(_same(*parts) for parts in zip(seen, recorded, strict=True))
    if isinstance(recorded, str):
        return bool(seen == recorded)
    return np.allclose(seen, recorded, rtol=1e-4, atol=1e-5)
