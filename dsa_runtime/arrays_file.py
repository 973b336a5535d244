"""ArraysFile: the arrays in an `.npz` file of a package, read without trusting it."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import WorldError

_MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class ArraysFile:
    """Nothing is unpickled, and sizes are checked before memory is taken."""

    path: Path
    _archive: zipfile.ZipFile

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[ArraysFile]:
        """Raises `WorldError`, naming the file, for whatever is wrong with it while it is open."""
        try:
            with zipfile.ZipFile(path) as archive:
                yield cls(path, archive)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, KeyError, ValueError, RuntimeError) as error:
            if isinstance(error, WorldError):
                raise
            raise WorldError(f"{path}: not a sound npz file: {error}") from None

    def read(self, name: str) -> np.ndarray:
        """The array of this name."""
        info = self._archive.getinfo(f"{name}.npy")
        if info.file_size > _MAX_BYTES:
            raise WorldError(f"{self.path}: {name}: larger than {_MAX_BYTES} bytes")
        with self._archive.open(info) as stream:
            version = np.lib.format.read_magic(stream)
            if version != (1, 0):
                raise WorldError(f"{self.path}: {name}: npy version {version} is not supported")
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        if dtype.hasobject:
            raise WorldError(f"{self.path}: {name}: holds Python objects, which are never loaded")
        if int(np.prod(shape, dtype=object)) * dtype.itemsize > info.file_size:
            raise WorldError(f"{self.path}: {name}: truncated")
        with self._archive.open(info) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)


def describe(array: np.ndarray) -> str:
    """Its dtype and shape, for errors."""
    return f"{array.dtype}[{', '.join(map(str, array.shape))}]"
