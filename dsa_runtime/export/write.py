"""Export: a recording to a file, in the format that the file's suffix names."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..atomic import whole_file
from ..errors import DsaError, RecordingError
from ..recording import Recording
from ..tick import Tick
from .redraw import Redrawn, redraw, without_picture, without_pictures

if TYPE_CHECKING:
    from ..report.play import Play
    from ..world import World

SUFFIXES = (".mp4", ".gif", ".csv", ".parquet", ".rrd")
_NEEDS = {".mp4": ("av", "export"), ".parquet": ("pyarrow", "export"), ".rrd": ("rerun", "rerun")}
_FILMS = (".mp4", ".gif")
_LARGEST = 4096
"""Pixels on a side of a film: what H.264 decoders and GIF viewers can be expected to take."""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    ticks: int
    same_frames: int
    """How many of the ticks drawn for it have the recorded pictures, bit for bit."""
    size: tuple[int, int] | None
    """Width and height of a film in pixels."""


def export(
    world: World,
    recording: Recording,
    path: str | os.PathLike[str],
    *,
    plain: bool = False,
    scale: int | None = None,
    progress: Callable[[], object] = lambda: None,
) -> Exported:
    """Write a recording to `path`: a film, a table or a Rerun log, by suffix (`SUFFIXES`).

    Films and logs hold all pictures, `spec.frame.fps` of them a second of the world; tables a row per tick.

    plain      films without steps, confidence and latency under the picture
    scale      film pixels per pixel of the world, 1 or more; None for a picture about 384 pixels high
    progress   called after every tick written

    Raises `RecordingError` if the recording is empty or does not fit the world, `DsaError` for a suffix, a scale
    or a missing library, before anything is written, and `OSError`. A file of that name is replaced, or kept whole.
    """
    target = Path(path)
    suffix = check(target)
    if not recording.decisions:
        raise RecordingError("decisions: the recording holds no tick; record some with `dsa record`")
    if (plain or scale is not None) and suffix not in _FILMS:
        raise DsaError(f"plain, scale: only films have a look, and {suffix} is none; leave them out")
    if scale is not None and scale < 1:
        raise DsaError(f"scale: must be at least 1, got {scale}")
    counter = _Counter(progress)
    size = None
    if suffix in _FILMS:
        size = _write_film(world, recording, target, suffix, plain, scale, counter)
    else:
        _write_ticks(world, recording, target, suffix, counter)
    return Exported(counter.ticks, counter.same, size)


def check(path: Path) -> str:
    """The suffix, lower-case. Raises `DsaError` for one that is not known or whose library is not there."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DsaError(f"{path.name}: unknown suffix {path.suffix!r}; choose one of {', '.join(SUFFIXES)}")
    if suffix in _NEEDS:
        library, extra = _NEEDS[suffix]
        if importlib.util.find_spec(library) is None:
            raise DsaError(f"{suffix} files need {library}: pip install 'dsa-runtime[{extra}]'")
    return suffix


class _Counter:
    """Passes ticks on and counts them."""

    def __init__(self, progress: Callable[[], object]) -> None:
        self.ticks = self.same = 0
        self._progress = progress

    def watch(self, ticks: Iterator[Redrawn]) -> Iterator[Redrawn]:
        for redrawn in ticks:
            yield redrawn
            self.ticks += 1
            self.same += redrawn.same
            self._progress()


def _write_ticks(world: World, recording: Recording, target: Path, suffix: str, counter: _Counter) -> None:
    from .columns import row
    from .rrd import write_rrd
    from .tables import write_csv, write_parquet

    spec = world.spec
    ticks = counter.watch(redraw(world, recording))
    with whole_file(target) as partial_file:
        if suffix == ".rrd":
            write_rrd(partial_file, spec, recording, ticks)
        elif suffix == ".csv":
            write_csv(partial_file, spec, map(partial(row, spec), ticks))
        else:
            write_parquet(partial_file, spec, recording, map(partial(row, spec), ticks))


def _write_film(
    world: World, recording: Recording, target: Path, suffix: str, plain: bool, scale: int | None, counter: _Counter
) -> tuple[int, int]:
    from ..report.gif import GifPalette, write_gif
    from ..report.pictures import Pictures
    from .mp4 import write_mp4

    frame = world.spec.frame
    ticks = without_pictures(recording)
    samples: dict[int, np.ndarray] = {}
    if suffix == ".gif" or (ticks is None and not plain):
        ticks, samples = _survey(world, recording, ticks)
    pictures = Pictures(frame, None if plain or ticks is None else _play(world, recording, ticks), scale)
    if max(pictures.size) > _LARGEST:
        width, height = pictures.size
        raise DsaError(f"scale: {width} x {height} pixels are too many for a film; choose a smaller --scale")
    drawn = counter.watch(redraw(world, recording))
    frames = ((index, pixels) for index, redrawn in enumerate(drawn) for pixels in redrawn.tick.frames)
    with whole_file(target) as partial_file:
        if suffix == ".mp4":
            write_mp4(partial_file, pictures.size, frame.fps, (pictures.draw(*each) for each in frames))
        else:
            shown = dict.fromkeys(place // frame.frames_per_tick for place in samples)
            strips = [strip for index in shown if (strip := pictures.strip(index)) is not None]
            palette = GifPalette(list(samples.values()), strips)
            count = len(recording.decisions) * frame.frames_per_tick
            write_gif(partial_file, pictures, palette, 1000.0 / frame.fps, count, frames)
    return pictures.size


def _play(world: World, recording: Recording, ticks: Sequence[Tick]) -> Play:
    from ..commands.player import describe
    from ..report.play import Play

    words = tuple(describe(world.spec.action_space, entry.action) for entry in recording.decisions)
    return Play(world.spec, recording.seed, math.inf, words, tuple(ticks), math.nan, None)


def _survey(
    world: World, recording: Recording, known: Sequence[Tick] | None
) -> tuple[list[Tick], dict[int, np.ndarray]]:
    """Draw the recording once without writing: its ticks without pictures, and some of the pictures by their place."""
    from ..report.gif import SAMPLES, spread

    pictures = world.spec.frame.frames_per_tick
    wanted = set(spread(len(recording.decisions) * pictures))
    if known is not None:
        late = [index for index, tick in enumerate(known) if tick.status != "ok"]
        wanted |= {index * pictures for index in late[:SAMPLES]}  # their read-outs have colours of their own
    ticks, samples = [], {}
    for index, redrawn in enumerate(redraw(world, recording)):
        ticks.append(without_picture(redrawn.tick))
        for place, pixels in enumerate(redrawn.tick.frames, index * pictures):
            if place in wanted:
                samples[place] = pixels.copy()  # or it would keep the tick's others
    return ticks, samples
