"""A set of recordings on disk: one folder per split and a `dataset.json` that describes them all.

    <folder>/dataset.json
    <folder>/train/000000.npz 000001.npz ...      (`episode.py` documents the arrays)
    <folder>/validation/...  <folder>/test/...

`dataset.json`: format "dsa-episodes", format_version 1, name, frame {height, width, channels, fps, ...},
action_space (as in a WorldSpec), state (column names), licence, source, complete (bool), recorder (free form),
and splits: {name: {episodes, frames, seeds: [first, last]}}. Splits never share a seed. While a recording goes
on, `episodes` counts the files that are already there, so a reader may start before `complete` is true.

To bring in a recording made elsewhere: `DatasetWriter.create`, then `add` per split, then `finish`.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .episode import DatasetError, Episode, action_array_type, read_episode, validate_episode, write_episode

FORMAT = "dsa-episodes"
FORMAT_VERSION = 1
DESCRIPTION_FILE = "dataset.json"


@dataclass(frozen=True)
class Split:
    """What one split holds: files, pictures in them, and the closed range of seeds they come from."""

    episodes: int
    frames: int
    seeds: tuple[int, int]


@dataclass(frozen=True)
class DatasetSpec:
    """The content of `dataset.json`; see the module."""

    name: str
    frame: Mapping[str, Any]
    action_space: Mapping[str, Any]
    state: tuple[str, ...]
    licence: str
    source: str
    splits: Mapping[str, Split]
    complete: bool = True
    recorder: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        splits = {
            name: {"episodes": split.episodes, "frames": split.frames, "seeds": list(split.seeds)}
            for name, split in self.splits.items()
        }
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "frame": dict(self.frame),
            "action_space": dict(self.action_space),
            "state": list(self.state),
            "licence": self.licence,
            "source": self.source,
            "complete": self.complete,
            "splits": splits,
            "recorder": dict(self.recorder),
        }

    @staticmethod
    def from_json(data: Any, where: str) -> DatasetSpec:
        """Raises DatasetError naming `where` and the field."""
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise DatasetError(f"{where}: not a {FORMAT} description")
        if data.get("format_version") != FORMAT_VERSION:
            raise DatasetError(
                f"{where}: format version {data.get('format_version')!r} is unknown; known: {FORMAT_VERSION}"
            )
        try:
            splits = {
                str(name): Split(int(entry["episodes"]), int(entry["frames"]), _seed_range(entry["seeds"]))
                for name, entry in data["splits"].items()
            }
            spec = DatasetSpec(
                name=str(data["name"]),
                frame=dict(data["frame"]),
                action_space=dict(data["action_space"]),
                state=tuple(data.get("state", ())),
                licence=str(data["licence"]),
                source=str(data["source"]),
                splits=splits,
                complete=bool(data.get("complete", True)),
                recorder=dict(data.get("recorder", {})),
            )
        except KeyError as error:
            raise DatasetError(f"{where}: the field {error} is missing") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise DatasetError(f"{where}: malformed ({error})") from None
        for key in ("height", "width", "channels", "fps"):
            if key not in spec.frame:
                raise DatasetError(f"{where}: frame.{key} is missing")
        action_array_type(spec.action_space)
        _check_seeds_disjoint(spec.splits, where)
        return spec


class Dataset:
    """Reads a dataset. Episodes are read (and validated) when asked for; nothing is kept in memory."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        path = self.folder / DESCRIPTION_FILE
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DatasetError(f"{self.folder}: no {DESCRIPTION_FILE}; record one or check the path") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise DatasetError(f"{path}: not valid JSON ({error})") from None
        self.spec = DatasetSpec.from_json(data, str(path))

    def paths(self, split: str) -> list[Path]:
        """The split's files, in order."""
        if split not in self.spec.splits:
            known = ", ".join(self.spec.splits) or "none"
            raise DatasetError(f"{self.folder}: no split {split!r}; it has: {known}")
        return [episode_path(self.folder, split, index) for index in range(self.spec.splits[split].episodes)]

    def read(self, split: str, index: int) -> Episode:
        """One episode; the caller owns it."""
        paths = self.paths(split)
        if not 0 <= index < len(paths):
            raise DatasetError(f"{self.folder}: split {split!r} has episodes 0..{len(paths) - 1}, not {index}")
        return read_episode(paths[index], self.spec.frame, self.spec.action_space, self.spec.state)

    def episodes(self, split: str) -> Iterator[Episode]:
        """All episodes of a split, in order, one in memory at a time."""
        for index in range(len(self.paths(split))):
            yield self.read(split, index)

    def check(self) -> None:
        """Reads everything. Raises DatasetError at the first file that does not follow the format or the counts."""
        for name, split in self.spec.splits.items():
            frames = sum(len(episode.frames) for episode in self.episodes(name))
            if frames != split.frames:
                raise DatasetError(
                    f"{self.folder}: split {name!r} holds {frames} frames, its description says {split.frames}"
                )


class DatasetWriter:
    """Grows a dataset episode by episode; the description on disk is valid after every call."""

    def __init__(self, folder: str | Path, spec: DatasetSpec):
        self.folder = Path(folder)
        self._spec = spec
        self._splits: dict[str, Split] = dict(spec.splits)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_description(complete=False)

    @staticmethod
    def create(
        folder: str | Path,
        *,
        name: str,
        frame: Mapping[str, Any],
        action_space: Mapping[str, Any],
        licence: str,
        source: str,
        state: tuple[str, ...] = (),
        recorder: Mapping[str, Any] | None = None,
    ) -> DatasetWriter:
        """Starts an empty dataset. Refuses a folder that already holds one."""
        if (Path(folder) / DESCRIPTION_FILE).exists():
            advice = "" if Dataset(folder).spec.complete else ", only partly recorded; delete it to record it anew"
            raise DatasetError(f"{folder}: already holds a dataset{advice}")
        spec = DatasetSpec(name, frame, action_space, state, licence, source, {}, False, recorder or {})
        # One gate for hand-made and read descriptions: what the reader would refuse is refused before recording.
        return DatasetWriter(folder, DatasetSpec.from_json(spec.to_json(), str(folder)))

    def add(self, split: str, episode: Episode, *, seed: int, compress: bool = False) -> Path:
        """Validates and writes the next episode of a split, then registers it."""
        path = episode_path(self.folder, split, self._splits[split].episodes if split in self._splits else 0)
        validate_episode(episode, self._spec.frame, self._spec.action_space, self._spec.state, where=str(path))
        path.parent.mkdir(exist_ok=True)
        write_episode(path, episode, compress=compress)
        self.register(split, frames=len(episode.frames), seed=seed)
        return path

    def register(self, split: str, *, frames: int, seed: int) -> None:
        """Counts the next file of a split, which is already in its place (written by a worker process)."""
        old = self._splits.get(split)
        new = (
            Split(1, frames, (seed, seed))
            if old is None
            else Split(old.episodes + 1, old.frames + frames, (min(old.seeds[0], seed), max(old.seeds[1], seed)))
        )
        grown = {**self._splits, split: new}
        _check_seeds_disjoint(grown, str(self.folder))
        self._splits = grown
        self._write_description(complete=False)

    def finish(self) -> Dataset:
        """Marks the dataset complete and opens it."""
        self._write_description(complete=True)
        return Dataset(self.folder)

    def _write_description(self, complete: bool) -> None:
        data = {**self._spec.to_json(), "complete": complete}
        data["splits"] = {
            name: {"episodes": split.episodes, "frames": split.frames, "seeds": list(split.seeds)}
            for name, split in self._splits.items()
        }
        path = self.folder / DESCRIPTION_FILE
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
        os.replace(partial, path)


def episode_path(folder: Path, split: str, index: int) -> Path:
    """Where the format keeps the episode."""
    if not split.isidentifier():
        raise DatasetError(f"{folder}: {split!r} is no name for a split (letters, digits, underscore)")
    return folder / split / f"{index:06d}.npz"


def _seed_range(value: Any) -> tuple[int, int]:
    first, last = value
    if first > last:
        raise ValueError(f"seeds {value} are not a range")
    return int(first), int(last)


def _check_seeds_disjoint(splits: Mapping[str, Split], where: str) -> None:
    ordered = sorted((split.seeds, name) for name, split in splits.items())
    for (before, first_name), (after, second_name) in itertools.pairwise(ordered):
        if after[0] <= before[1]:
            raise DatasetError(f"{where}: splits {first_name!r} and {second_name!r} share seeds {list(after)}")
