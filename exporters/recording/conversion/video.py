"""Frames of a video file, read with PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..episode import DatasetError


def frame_rate(path: Path) -> float:
    """Frames a second, as the file says."""
    av = _av()
    with _opened(path) as container:
        stream = _stream(container, path)
        if not stream.average_rate:
            raise DatasetError(f"{path}: the file does not say its frame rate; {_REPAIR}")
        assert av is not None
        return float(stream.average_rate)


def read_frames(path: Path, start_s: float = 0.0, fps: float | None = None) -> Iterator[np.ndarray]:
    """uint8[H, W, 3] one after another from `start_s` on.

    With `fps`, every frame must lie where that rate puts it; without, all must be equally far apart. Or a DatasetError
    says where one is missing.
    """
    av = _av()
    with _opened(path) as container:
        stream = _stream(container, path)
        stream.thread_type = "AUTO"
        half = 0.5 / (fps or float(stream.average_rate or 1000))
        if start_s > 0:
            container.seek(int(start_s / stream.time_base), stream=stream)
        index, last_s, gap_s = 0, None, None
        try:
            for frame in container.decode(stream):
                if frame.time is not None and frame.time < start_s - half:
                    continue  # between the key frame and the start
                if fps is not None and frame.time is not None and abs(frame.time - start_s - index / fps) > half:
                    at = start_s + index / fps
                    raise DatasetError(f"{path}: no frame at {at:.3f} s, the next is at {frame.time:.3f} s; {_REPAIR}")
                if fps is None and frame.time is not None:
                    if last_s is not None:
                        gap_s = gap_s or frame.time - last_s
                        if abs(frame.time - last_s - gap_s) > gap_s / 2:
                            raise DatasetError(
                                f"{path}: frames come {gap_s:.3f} s apart, but after {last_s:.3f} s the next is at"
                                f" {frame.time:.3f} s; {_REPAIR}"
                            )
                    last_s = frame.time
                index += 1
                yield frame.to_ndarray(format="rgb24")
        except av.FFmpegError as error:
            raise DatasetError(f"{path}: damaged after {index} frames ({error})") from error


_REPAIR = "write it anew at a constant rate (ffmpeg -i IN -fps_mode cfr OUT)"


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise DatasetError(
            "video: PyAV is not installed: pip install 'dsa-runtime[convert]', or pip install av"
        ) from None
    return av


def _opened(path: Path) -> Any:
    av = _av()
    try:
        return av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        raise DatasetError(f"{path}: not a readable video ({error})") from error


def _stream(container: Any, path: Path) -> Any:
    if not container.streams.video:
        raise DatasetError(f"{path}: it has no pictures")
    return container.streams.video[0]
