"""Recordings -> a dataset: shrunk, cut into files, and split so that held-out pictures come from other recordings."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..dataset import DESCRIPTION_FILE, Dataset, DatasetWriter
from ..episode import DatasetError, Episode
from ..gymnasium_world import SHORTEST_STRETCH
from ..picture import check_size, frame_of, shrink
from .source import Recordings, Source

HELD_OUT = 12
"""One recording in so many is held out for validation, and another for the test."""
_SHORTEST = SHORTEST_STRETCH - 1
FIRST_SEED = {"train": 0, "validation": 1_000_000_000, "test": 2_000_000_000}
"""A converted file's "seed" is its number, from here on."""


@dataclass(frozen=True)
class Conversion:
    """What becomes of the recordings."""

    name: str
    folder: Path
    height: int = 64
    width: int = 64
    every: int = 1
    """Keep one picture in so many, and the action taken on it."""
    steps_per_episode: int = 500
    """Longer recordings become several files."""
    licence: str = "unknown"

    def __post_init__(self) -> None:
        if not (16 <= self.height <= 256 and 16 <= self.width <= 256 and self.height % 16 == self.width % 16 == 0):
            raise ValueError(f"size: {self.width}x{self.height}; both must be multiples of 16 in 16..256")
        if self.every < 1 or self.steps_per_episode < 1:
            raise ValueError("every and steps_per_episode must be at least 1")


@dataclass(frozen=True)
class Piece:
    """A stretch of one recording that becomes a file: steps `first` to `last` (not included), after thinning out."""

    source: int
    first: int
    last: int
    split: str


def convert(recordings: Recordings, target: Conversion) -> Dataset:
    """Write the dataset. The folder appears whole or not at all."""
    if target.folder.exists() and any(target.folder.iterdir()):
        what = "already holds a dataset" if (target.folder / DESCRIPTION_FILE).exists() else "is not empty"
        raise DatasetError(f"out: {target.folder} {what}; choose another folder")
    sources, every = recordings.sources, target.every
    pieces = plan([source.steps // every for source in sources], target.steps_per_episode)
    opening = sources[pieces[0].source]
    first = next(opening.pictures())
    check_size(first, target.height, target.width, opening.where)
    scratch = target.folder.with_name(target.folder.name + ".partial")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        writer = DatasetWriter.create(
            scratch,
            name=target.name,
            frame=frame_of(first, target.height, target.width, recordings.fps / every),
            action_space=recordings.action_space,
            licence=target.licence,
            source=recordings.origin,
            recorder={"converted": recordings.origin, "every": every, "recordings": len(sources)},
        )
        number = dict(FIRST_SEED)
        with tqdm(total=sum(piece.last - piece.first for piece in pieces), unit="frame", desc=target.name) as bar:
            for index in sorted({piece.source for piece in pieces}):
                source = sources[index]
                own = [piece for piece in pieces if piece.source == index]
                for piece, episode in zip(own, _episodes(source, own, target, first.shape), strict=True):
                    writer.add(piece.split, episode, seed=number[piece.split])
                    number[piece.split] += 1
                    bar.update(episode.steps)
        writer.finish()
        if target.folder.exists():
            target.folder.rmdir()
        os.replace(scratch, target.folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Dataset(target.folder)


def plan(lengths: list[int], steps_per_episode: int) -> list[Piece]:
    """Cut recordings of these many steps into files of about equal length, and give each a split.

    From three recordings on, whole ones are held out; fewer are cut up and their last parts held out. Recordings that
    are too short for a start context are left out.
    """
    usable = [i for i, length in enumerate(lengths) if length >= _SHORTEST]
    total = sum(lengths[i] for i in usable)
    if len(usable) >= 3:
        held_out = max(1, round(len(usable) / HELD_OUT))
        spread = np.linspace(0, len(usable) - 1, 2 * held_out + 1).astype(int)[1:]
        split_of = {usable[at]: ("validation", "test")[turn % 2] for turn, at in enumerate(spread)}
        return [
            Piece(i, *part, split_of.get(i, "train")) for i in usable for part in _cut(lengths[i], steps_per_episode)
        ]
    most = min(steps_per_episode, max(total // HELD_OUT, 2 * _SHORTEST))
    cut = [(i, *part) for i in usable for part in _cut(lengths[i], most)]
    if len(cut) < 3:
        raise DatasetError(
            f"{total} steps in {len(usable)} recordings of {_SHORTEST} or more cannot fill three splits; bring more"
        )
    held_out = max(1, round(len(cut) / HELD_OUT))
    splits = ["train"] * (len(cut) - 2 * held_out) + ["validation"] * held_out + ["test"] * held_out
    return [Piece(*part, split) for part, split in zip(cut, splits, strict=True)]


def _cut(length: int, most: int) -> list[tuple[int, int]]:
    """(first, last) of parts that are about equally long, at most `most`."""
    ends = np.linspace(0, length, -(-length // most) + 1).round().astype(int).tolist()
    return list(pairwise(ends))


def _episodes(source: Source, pieces: list[Piece], target: Conversion, shape: tuple[int, ...]) -> Iterator[Episode]:
    """The files of one recording. All its pictures are read, so that one that does not fit its actions is noticed."""
    every = target.every
    waiting = iter(pieces)
    piece = next(waiting, None)
    frames: list[np.ndarray] = []
    for index, picture in enumerate(source.pictures()):
        if picture.shape != shape:
            raise DatasetError(
                f"{source.where}: picture {index} is {picture.shape[1]}x{picture.shape[0]},"
                f" those before it are {shape[1]}x{shape[0]}"
            )
        if piece is None or index % every:
            continue
        frames.append(shrink(picture, target.height, target.width))
        if index // every < piece.last:
            continue
        taken = np.arange(piece.first, piece.last) * every
        cut = np.zeros(len(frames), np.bool_)
        yield Episode(np.stack(frames), source.actions[taken], cut, _paid(source.reward, taken, every))
        frames, piece = frames[-1:], next(waiting, None)  # the next file begins with the picture that ended this one


def _paid(reward: np.ndarray, taken: np.ndarray, every: int) -> np.ndarray:
    """float32: the reward of the steps that each kept one stands for."""
    sums = np.concatenate([[0.0], np.cumsum(reward, dtype=np.float64)])
    return np.asarray(sums[taken + every] - sums[taken], dtype=np.float32)
