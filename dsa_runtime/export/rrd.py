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
from ..spec import WorldSpec
from .columns import ACTION, Value, columns, row
from .redraw import Redrawn

if TYPE_CHECKING:
    import rerun

_APPLICATION = "dsa_runtime"
_TICKS_TOGETHER = 64  # in one chunk per path: a chunk of its own for each value would be mostly overhead
_SKIPPED = ("tick", "time_s", "digest")  # the first two are the timelines


def write_rrd(path: Path, spec: WorldSpec, recording: Recording, ticks: Iterable[Redrawn]) -> None:
    """Write the ticks as they come: `frame` (PNG), and every column of the table at a path of its own.

    Actions are under `action/`, milliseconds under `latency/`, all else under `decision/`; what is text
    (`status`, `stopped_by`, the action's name) is a text log.
    """
    import rerun

    paths = {column.name: _path(column.name, column.unit) for column in columns(spec)}
    with rerun.RecordingStream(_APPLICATION) as log:
        log.save(path)
        log.send_recording_name(f"{recording.world} {recording.version}, seed {recording.seed}")
        remaining = iter(ticks)
        while some := list(itertools.islice(remaining, _TICKS_TOGETHER)):
            known: dict[str, list[tuple[int, Value]]] = defaultdict(list)
            for redrawn in some:
                for name, value in row(spec, redrawn).items():
                    if value is not None and name not in _SKIPPED:
                        known[paths[name]].append((redrawn.tick.tick, value))
            frames = rerun.EncodedImage.columns(
                blob=[_png(redrawn.tick.pixels) for redrawn in some], media_type=["image/png"] * len(some)
            )
            _send(log, "frame", [redrawn.tick.tick for redrawn in some], spec.frame.fps, frames)
            for where, values in known.items():
                if isinstance(values[0][1], str):
                    content = rerun.TextLog.columns(text=[str(value) for _, value in values])
                else:
                    content = rerun.Scalars.columns(scalars=[float(value or 0) for _, value in values])
                _send(log, where, [tick for tick, _ in values], spec.frame.fps, content)
        log.flush()
        log.disconnect()


def _send(log: rerun.RecordingStream, path: str, ticks: Sequence[int], fps: float, content: Any) -> None:
    import rerun

    timelines = [
        rerun.TimeColumn("tick", sequence=ticks),
        rerun.TimeColumn("time", duration=[tick / fps for tick in ticks]),
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
