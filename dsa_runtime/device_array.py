"""DeviceArray: an array that lies in a device's memory, and what works on it as on one of numpy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


class DeviceArray:
    """An array in a device's memory. The host reads and writes copies of it; its own memory moves nowhere."""

    __slots__ = ("_base", "_index", "_offset", "dtype", "shape")

    def __init__(self, base: Any, shape: tuple[int, ...], dtype: np.dtype, index: int, offset: int = 0) -> None:
        """For `Device`. `base` is an `onnxruntime.OrtValue` on device `index`; a part of it begins at `offset`, in
        bytes."""
        self._base, self._index, self._offset = base, index, offset
        self.shape, self.dtype = shape, dtype

    def place(self) -> tuple[str, int, int]:
        """Kind and number of the device, and the address there: what a binding wants to know."""
        return self._base.device_name(), self._index, self._base.data_ptr() + self._offset

    def __len__(self) -> int:
        return self.shape[0]

    def rows(self, start: int, stop: int) -> DeviceArray:
        """A part of it, in the same memory, to be bound: the host reads and writes the whole alone."""
        offset = self._offset + start * math.prod(self.shape[1:]) * self.dtype.itemsize
        return DeviceArray(self._base, (stop - start, *self.shape[1:]), self.dtype, self._index, offset)

    def __getitem__(self, index: Any) -> np.ndarray:
        """A copy, on the host. All of it crosses over, so this is for what happens seldom."""
        found: np.ndarray = np.asarray(self)[index]
        return found

    def __setitem__(self, index: Any, values: np.ndarray) -> None:
        """As seldom: all of it goes there and back."""
        whole = np.asarray(self)
        whole[index] = values
        self._base.update_inplace(whole)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole: np.ndarray = self._base.numpy().copy()  # where that is the CPU's, ONNX Runtime gives its own memory
        return whole if dtype is None else whole.astype(dtype, copy=False)


Array = np.ndarray | DeviceArray


def rows(array: Array, start: int, stop: int) -> Array:
    """`array[start:stop]` in the same memory, wherever it lies."""
    return array[start:stop] if isinstance(array, np.ndarray) else array.rows(start, stop)
