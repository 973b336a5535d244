"""Rerun: frames and decisions as a `.rrd` log, on two timelines: the tick, and the world's own time."""

from __future__ import annotations

import io
import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..recording import Recording
from ..spec import FrameSpec, WorldSpec
from .columns import ACTION, Value, columns, row, time_s
from .redraw import Redrawn

if TYPE_CHECKING:
    import rerun

_APPLICATION = "dsa_runtime"
_TOGETHER = 64  # pictures in one chunk per path: a chunk of its own for each value would be mostly overhead
_SKIPPED = ("tick", "time_s", "digest")  # the first two are the timelines


def write_rrd(path: Path, spec: WorldSpec, recording: Recording, ticks: Iterable[Redrawn]) -> None:
    """Write the ticks as they come: `frame` (PNG), all pictures, each at its own time and all those of a tick at that
    tick, and every column of the table at a path of its own.

    Actions are under `action/`, milliseconds under `latency/`, all else under `decision/`; what is text
    (`status`, `stopped_by`, the action's name) is a text log.
    """
    import rerun

    paths = {column.name: _path(column.name, column.unit) for column in columns(spec)}
    with rerun.RecordingStream(_APPLICATION) as log:
        log.save(path)
        log.send_recording_name(f"{recording.world} {recording.version}, seed {recording.seed}")
        remaining = iter(ticks)
        pictures_a_tick = spec.frame.frames_per_tick
        while some := list(itertools.islice(remaining, max(_TOGETHER // pictures_a_tick, 1))):
            known: dict[str, list[tuple[int, Value]]] = defaultdict(list)
            for redrawn in some:
                for name, value in row(spec, redrawn).items():
                    if value is not None and name not in _SKIPPED:
                        known[paths[name]].append((redrawn.tick.tick, value))
            pngs = [_png(picture) for redrawn in some for picture in redrawn.tick.frames]
            frames = rerun.EncodedImage.columns(blob=pngs, media_type=["image/png"] * len(pngs))
            places = [(redrawn.tick.tick, picture) for redrawn in some for picture in range(pictures_a_tick)]
            _send(log, "frame", spec.frame, places, frames)
            for where, values in known.items():
                if isinstance(values[0][1], str):
                    content = rerun.TextLog.columns(text=[str(value) for _, value in values])
                else:
                    content = rerun.Scalars.columns(scalars=[float(value or 0) for _, value in values])
                _send(log, where, spec.frame, [(tick, 0) for tick, _ in values], content)
        log.flush()
        log.disconnect()


def _send(
    log: rerun.RecordingStream, path: str, frame: FrameSpec, places: Sequence[tuple[int, int]], content: Any
) -> None:
    """`places` are pairs of a tick and the picture in it."""
    import rerun

    timelines = [
        rerun.TimeColumn("tick", sequence=[tick for tick, _ in places]),
        rerun.TimeColumn("time", duration=[time_s(frame, *place) for place in places]),
    ]
    log.send_columns(path, timelines, content)


def _path(name: str, unit: str) -> str:
    import rerun

    if name.startswith(ACTION):  # the rest is as the world's maker called it, "turn left/right" for example
        return f"action/{rerun.escape_entity_path_part(name.removeprefix(ACTION + '.'))}"
    return f"latency/{name}" if unit == "ms" else f"decision/{name}"


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
