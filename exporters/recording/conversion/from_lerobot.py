"""LeRobot datasets of versions 2 and 3 on disk: actions in Parquet, pictures in MP4 or in Parquet.

Version 2 has a file per episode, version 3 many episodes per file; `meta/info.json` says where they are. The action of
a row was commanded on seeing that row's picture, so the last row's is not used.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..episode import DatasetError
from ..picture import as_rgb
from .columns import ColumnChoice, box_actions
from .source import Recordings, Source
from .video import read_frames

_INFO = "meta/info.json"
_ACTION, _REWARD = "action", "next.reward"


@dataclass(frozen=True)
class _Place:
    """Where an episode's rows and pictures lie."""

    index: int
    rows: int
    data: Path
    video: Path | None
    start_s: float


def lerobot_recordings(dataset: str, camera: str | None, choice: ColumnChoice) -> Recordings:
    """All episodes of a dataset: a folder, or an id whose copy lies in LeRobot's cache."""
    folder = _folder(dataset)
    info = _read_info(folder)
    key = _camera(info, camera, folder)
    names = _action_names(info["features"], folder)
    places = _places(folder, info, key)
    columns = [_ACTION] + [_REWARD] * (_REWARD in info["features"])
    tables, rewards = [], []
    for place in places:
        rows = _rows(place, columns)
        tables.append(np.array(rows[_ACTION], np.float32).reshape(place.rows, len(names)))
        paid = np.array(rows.get(_REWARD, np.zeros(place.rows)), np.float32)
        rewards.append(paid.reshape(place.rows))
    chosen = choice.picked(names, str(folder))
    tables = [table[:, chosen] for table in tables]
    space, actions = box_actions(tables, [names[i] for i in chosen], choice)
    fps = float(info["fps"])
    sources = [
        Source(f"{folder}, episode {place.index}", taken[:-1], paid[:-1], partial(_pictures, place, key, fps))
        for place, taken, paid in zip(places, actions, rewards, strict=True)
    ]
    return Recordings(sources, fps, space, f"LeRobot dataset {dataset}, {key}", _licence(folder))


def _folder(dataset: str) -> Path:
    home = Path(os.environ.get("HF_LEROBOT_HOME", Path.home() / ".cache" / "huggingface" / "lerobot"))
    for folder in (Path(dataset), home / dataset):
        if (folder / _INFO).is_file():
            return folder
    raise DatasetError(
        f"{dataset}: no {_INFO} there, nor under {home}; to bring one here:"
        f" hf download {dataset} --repo-type dataset --local-dir FOLDER"
    )


def _read_info(folder: Path) -> dict[str, Any]:
    path = folder / _INFO
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        version = str(info["codebase_version"]).removeprefix("v")
        _ = info["features"][_ACTION], float(info["fps"]), info["data_path"]
    except (ValueError, TypeError, KeyError) as error:
        raise DatasetError(f"{path}: not the description of a LeRobot dataset ({error!r})") from None
    if version.partition(".")[0] not in ("2", "3"):
        raise DatasetError(f"{path}: version {version} is not known, only 2 and 3; LeRobot has a converter")
    return {**info, "version": int(version.partition(".")[0])}


def _camera(info: dict[str, Any], camera: str | None, folder: Path) -> str:
    keys = [key for key, feature in info["features"].items() if feature.get("dtype") in ("video", "image")]
    if camera is not None and camera not in keys:
        raise DatasetError(f"camera: {folder} has no {camera!r}; it has {', '.join(keys) or 'none'}")
    if not keys:
        raise DatasetError(f"{folder}: it has no pictures")
    if camera is None and len(keys) > 1:
        raise DatasetError(f"camera: {folder} has several; choose one of {', '.join(keys)} with --camera")
    return camera or keys[0]


def _action_names(features: dict[str, Any], folder: Path) -> list[str]:
    feature = features[_ACTION]
    if not str(feature.get("dtype", "")).startswith("float") or len(feature["shape"]) != 1:
        kind = f"{feature.get('dtype')}{feature.get('shape')}"
        raise DatasetError(f"{folder}: actions of {kind} cannot be converted, only vectors of floats")
    count, names = int(feature["shape"][0]), feature.get("names")
    if isinstance(names, dict):  # {"motors": [...]}
        names = [name for group in names.values() if isinstance(group, list) for name in group]
    if not isinstance(names, list) or len(names) != count or len(set(names)) != count or "" in names:
        return [f"action {i}" for i in range(count)]
    return [str(name) for name in names]


def _places(folder: Path, info: dict[str, Any], key: str) -> list[_Place]:
    is_video = info["features"][key]["dtype"] == "video"
    try:
        if info["version"] == 3:
            return [_place_3(folder, info, key if is_video else None, row) for row in _episodes_3(folder)]
        return [_place_2(folder, info, key if is_video else None, row) for row in _episodes_2(folder)]
    except KeyError as error:
        raise DatasetError(f"{folder}: the descriptions of its episodes lack {error}") from None


def _episodes_2(folder: Path) -> list[dict[str, Any]]:
    path = folder / "meta/episodes.jsonl"
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be read ({error})") from None


def _episodes_3(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("meta/episodes/*/*.parquet")):
        rows += _table(path).to_pylist()
    if not rows:
        raise DatasetError(f"{folder}: no descriptions of episodes under meta/episodes")
    return sorted(rows, key=lambda row: int(row["episode_index"]))


def _place_2(folder: Path, info: dict[str, Any], video: str | None, row: dict[str, Any]) -> _Place:
    index = int(row["episode_index"])
    at = {"episode_index": index, "episode_chunk": index // int(info["chunks_size"]), "video_key": video}
    path = None if video is None else folder / info["video_path"].format(**at)
    return _Place(index, int(row["length"]), folder / info["data_path"].format(**at), path, 0.0)


def _place_3(folder: Path, info: dict[str, Any], video: str | None, row: dict[str, Any]) -> _Place:
    index, rows = int(row["episode_index"]), int(row["length"])
    at = {"chunk_index": int(row["data/chunk_index"]), "file_index": int(row["data/file_index"])}
    data = folder / info["data_path"].format(**at)
    if video is None:
        return _Place(index, rows, data, None, 0.0)
    at = {name: int(row[f"videos/{video}/{name}"]) for name in at}
    path = folder / info["video_path"].format(video_key=video, **at)
    return _Place(index, rows, data, path, float(row[f"videos/{video}/from_timestamp"]))


def _rows(place: _Place, columns: list[str]) -> dict[str, list[Any]]:
    """Columns of one episode, in the order of its frames."""
    wanted = ["episode_index", "frame_index", *columns]
    rows = _table(place.data, wanted, place.index).sort_by("frame_index").to_pydict()
    if rows["frame_index"] != list(range(place.rows)):
        raise DatasetError(
            f"{place.data}: episode {place.index} has {len(rows['frame_index'])} rows, its description {place.rows}"
        )
    return dict(rows)


def _table(path: Path, columns: list[str] | None = None, episode: int | None = None) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DatasetError(
            "lerobot: pyarrow is not installed: pip install 'dsa-runtime[convert]', or pip install pyarrow"
        ) from None
    only = None if episode is None else [("episode_index", "=", episode)]
    try:
        return pyarrow.parquet.read_table(path, columns=columns, filters=only)
    except (OSError, pyarrow.ArrowException) as error:
        raise DatasetError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]})") from None


def _pictures(place: _Place, key: str, fps: float) -> Iterator[np.ndarray]:
    if place.video is None:
        for cell in _rows(place, [key])[key]:
            yield _decoded(cell, place)
        return
    count = 0
    for frame in islice(read_frames(place.video, place.start_s, fps), place.rows):
        count += 1
        yield frame
    if count < place.rows:
        raise DatasetError(f"{place.video}: episode {place.index} has {place.rows} rows, but only {count} frames")


def _decoded(cell: Any, place: _Place) -> np.ndarray:
    """A picture as Parquet holds it: {"bytes": a whole image file, "path": ...}."""
    if not isinstance(cell, dict) or not cell.get("bytes"):
        raise DatasetError(f"{place.data}: episode {place.index} has pictures in files of their own; embed them")
    with Image.open(io.BytesIO(cell["bytes"])) as image:
        return as_rgb(np.asarray(image.convert("RGB")), str(place.data))


def _licence(folder: Path) -> str | None:
    """What the README's header says."""
    readme = folder / "README.md"
    if not readme.is_file():
        return None
    header = re.match(r"---\n(.*?)\n---", readme.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    found = re.search(r"^license:\s*(\S+)", header[1], re.MULTILINE) if header else None
    return found[1] if found else None
