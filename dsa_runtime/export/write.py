"""Export: a recording to a file, in the format that the file's suffix names."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DsaError, RecordingError
from ..recording import Recording
from ..tick import Tick
from .atomic import whole_file
from .redraw import Redrawn, redraw, without_picture, without_pictures

if TYPE_CHECKING:
    from ..world import World

SUFFIXES = (".mp4", ".gif", ".csv", ".parquet", ".rrd")
_NEEDS = {".mp4": ("av", "export"), ".parquet": ("pyarrow", "export"), ".rrd": ("rerun", "rerun")}
_FILMS = (".mp4", ".gif")
_SAMPLES = 64  # pictures that a GIF's palette is found from


@dataclass(frozen=True)
class Exported:
    """What was written."""

    ticks: int
    same_frames: int
    """How many of the frames drawn for it were the recorded ones, bit for bit."""
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
    from .gif import GifPalette, write_gif
    from .mp4 import write_mp4
    from .pictures import Pictures

    spec = world.spec
    ticks = without_pictures(recording)
    samples: dict[int, np.ndarray] = {}
    if suffix == ".gif" or (ticks is None and not plain):
        ticks, samples = _survey(world, recording, ticks)
    pictures = Pictures(spec, recording, () if plain else (ticks or ()), scale)
    drawn = counter.watch(redraw(world, recording))
    with whole_file(target) as partial_file:
        if suffix == ".mp4":
            frames = (pictures.draw(index, redrawn.tick.pixels) for index, redrawn in enumerate(drawn))
            write_mp4(partial_file, pictures.size, spec.frame.fps, frames)
        else:
            strips = [strip for index in samples if (strip := pictures.strip(index)) is not None]
            palette = GifPalette(list(samples.values()), strips)
            pixels = (redrawn.tick.pixels for redrawn in drawn)
            period_ms = spec.frame.period_ms
            write_gif(partial_file, pictures, palette, period_ms, len(recording.decisions), pixels)
    return pictures.size


def _survey(
    world: World, recording: Recording, known: Sequence[Tick] | None
) -> tuple[list[Tick], dict[int, np.ndarray]]:
    """Draw the recording once without writing: its ticks without pictures, and some of the pictures by their place."""
    count = len(recording.decisions)
    wanted = {round(place) for place in np.linspace(0, count - 1, min(count, _SAMPLES))}
    if known is not None:
        late = [index for index, tick in enumerate(known) if tick.status != "ok"]
        wanted |= set(late[:_SAMPLES])  # their read-outs have colours of their own
    ticks, samples = [], {}
    for index, redrawn in enumerate(redraw(world, recording)):
        ticks.append(without_picture(redrawn.tick))
        if index in wanted:
            samples[index] = redrawn.tick.pixels
    return ticks, samples
