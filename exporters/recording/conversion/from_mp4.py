"""A folder of videos with a table of actions beside each: NAME.mp4 and NAME.csv, one row per frame.

The first line of a table names its columns. Row i holds the action that was taken on frame i, so that it led to the
next one; the last row's is not used. A column "reward" is what that action was paid.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from ..episode import DatasetError
from .columns import ColumnChoice, text_actions
from .source import Recordings, Source
from .video import frame_rate, read_frames

REWARD = "reward"


def mp4_recordings(folder: Path, choice: ColumnChoice) -> Recordings:
    """All videos of a folder, in order of their names. DatasetError names the file that does not fit."""
    videos = sorted(path for path in folder.glob("*.mp4") if path.is_file())
    if not videos:
        raise DatasetError(f"{folder}: no .mp4 files")
    names: list[str] | None = None
    tables, rewards, rates = [], [], []
    for video in videos:
        header, cells = _read_table(video.with_suffix(".csv"), video)
        if names is not None and header != names:
            raise DatasetError(
                f"{video.with_suffix('.csv')}: columns {', '.join(header)}; those of the others: {', '.join(names)}"
            )
        names = header
        rewards.append(_reward(header, cells, video.with_suffix(".csv")))
        tables.append(cells)
        rates.append(frame_rate(video))
    assert names is not None
    for video, rate in zip(videos, rates, strict=True):
        if abs(rate - rates[0]) > 1e-3 * rates[0]:
            raise DatasetError(f"{video}: {rate:g} frames a second, but {videos[0].name} has {rates[0]:g}")
    used = [name for name in names if name != REWARD]
    places = [names.index(used[i]) for i in choice.picked(used, f"{videos[0].stem}.csv")]
    chosen = [names[place] for place in places]
    if not chosen:
        raise DatasetError(f"{videos[0].with_suffix('.csv')}: no column of actions beside {REWARD!r}")
    space, actions = text_actions([table[:, places] for table in tables], chosen, choice)
    sources = [
        Source(str(video), taken[:-1], paid[:-1], partial(_frames, video, len(taken)))
        for video, taken, paid in zip(videos, actions, rewards, strict=True)
    ]
    return Recordings(sources, rates[0], space, f"{len(videos)} videos of {folder.name}/")


def _frames(video: Path, rows: int) -> Iterator[np.ndarray]:
    count = 0
    for count, frame in enumerate(read_frames(video), start=1):
        if count <= rows:
            yield frame
    if count != rows:
        raise DatasetError(
            f"{video}: {count} frames, but {video.with_suffix('.csv').name} has {rows} rows under its header;"
            " one row per frame is needed"
        )


def _read_table(path: Path, video: Path) -> tuple[list[str], np.ndarray]:
    """The names of the columns, and str[rows, columns]."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
    except FileNotFoundError:
        raise DatasetError(f"{video}: its actions are missing, expected {path.name} beside it") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: not a readable table ({error})") from error
    if len(rows) < 3:
        raise DatasetError(f"{path}: a line of column names and at least two rows are needed")
    header = rows[0]
    if len(set(header)) != len(header) or not all(header):
        raise DatasetError(f"{path}: the first line must name the columns, each differently, got {', '.join(header)}")
    if all(_is_number(cell) for cell in header):
        raise DatasetError(f"{path}: the first line must name the columns, but it holds only numbers")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header) or not all(row):
            raise DatasetError(f"{path}: line {number} has empty or missing cells; {len(header)} are needed")
    return header, np.array(rows[1:])


def _reward(header: list[str], cells: np.ndarray, path: Path) -> np.ndarray:
    if REWARD not in header:
        return np.zeros(len(cells), np.float32)
    try:
        return cells[:, header.index(REWARD)].astype(np.float32)
    except ValueError:
        raise DatasetError(f"{path}: the column {REWARD!r} must hold numbers") from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
