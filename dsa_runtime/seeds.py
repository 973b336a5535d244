"""Start contexts of a world: a few real frames, and the actions that led to them, for `Session.reset`."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import ActionError, WorldError
from .spec import WorldSpec

_MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class SeedContexts:
    """`count` contexts of `window` frames each, oldest first."""

    frames: np.ndarray
    """`uint8[count, window, height, width, 3]`"""
    actions: np.ndarray
    """`float32[count, window, action width]`, encoded; `actions[i, j]` led to `frames[i, j]`."""

    @property
    def count(self) -> int:
        return len(self.frames)


def load_seeds(path: Path, spec: WorldSpec) -> SeedContexts:
    """Read and check `seeds.npz`. Nothing is unpickled, and sizes are checked before memory is taken."""
    frame, window = spec.frame, spec.cache.window
    try:
        with zipfile.ZipFile(path) as archive:
            frames = _read(archive, "frames", path)
            actions = _read(archive, "actions", path)
    except (zipfile.BadZipFile, OSError, EOFError, KeyError, ValueError, NotImplementedError) as error:
        if isinstance(error, WorldError):
            raise
        raise WorldError(f"{path}: not a sound npz file: {error}") from None
    expected = (window, frame.height, frame.width, frame.channels)
    if frames.dtype != np.uint8 or frames.ndim != 5 or frames.shape[1:] != expected or not len(frames):
        raise WorldError(f"{path}: frames: expected uint8[n, {', '.join(map(str, expected))}], got {_describe(frames)}")
    if actions.shape != (len(frames), window, *spec.action_space.shape):
        shape = ", ".join(map(str, (len(frames), window, *spec.action_space.shape)))
        raise WorldError(f"{path}: actions: expected shape [{shape}], got {_describe(actions)}")
    encoded = np.empty((len(frames), window, spec.action_space.width), np.float32)
    for index in np.ndindex(len(frames), window):
        try:
            encoded[index] = spec.action_space.encode(actions[index])
        except ActionError as error:
            raise WorldError(f"{path}: actions{list(index)}: {error}") from None
    return SeedContexts(frames, encoded)


def _read(archive: zipfile.ZipFile, name: str, path: Path) -> np.ndarray:
    info = archive.getinfo(f"{name}.npy")
    if info.file_size > _MAX_BYTES:
        raise WorldError(f"{path}: {name}: larger than {_MAX_BYTES} bytes")
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise WorldError(f"{path}: {name}: npy version {version} is not supported")
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.hasobject:
        raise WorldError(f"{path}: {name}: holds Python objects, which are never loaded")
    if int(np.prod(shape, dtype=object)) * dtype.itemsize > info.file_size:
        raise WorldError(f"{path}: {name}: truncated")
    with archive.open(info) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def _describe(array: np.ndarray) -> str:
    return f"{array.dtype}[{', '.join(map(str, array.shape))}]"
