"""Device: where a world's graphs run, and arrays that stay there between two runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from .device_array import Array, DeviceArray
from .errors import EngineError
from .ort import ort

_NAME = re.compile(r"cpu|cuda(:\d{1,2})?")
_CUDA = "CUDAExecutionProvider"


@dataclass(frozen=True)
class Device:
    """`cpu`, or a GPU through ONNX Runtime's CUDA provider."""

    kind: str
    index: int = 0

    @classmethod
    def of(cls, name: str) -> Device:
        """`cpu`, `cuda`, or `cuda:1` and so on. Raises `EngineError`, also where ONNX Runtime cannot use it."""
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            raise EngineError(f"device: expected cpu, cuda or cuda:N, got {name!r}")
        kind, _, index = name.partition(":")
        device = cls(kind, int(index or 0))
        if kind == "cuda":
            device._probe()
        return device

    def __str__(self) -> str:
        return self.kind if not self.index else f"{self.kind}:{self.index}"

    @property
    def providers(self) -> list[Any]:
        """As `onnxruntime.InferenceSession` takes them."""
        if self.kind == "cpu":
            return ["CPUExecutionProvider"]
        # Without TF32, so that a world draws what it draws on the CPU, up to rounding.
        return [(_CUDA, {"device_id": self.index, "use_tf32": "0"}), "CPUExecutionProvider"]

    def check(self, graph: ort.InferenceSession, where: str) -> None:
        """Raise `EngineError` if the graph was loaded for another device: ONNX Runtime falls back without an error."""
        if self.kind == "cuda" and _CUDA not in graph.get_providers():
            raise EngineError(f"{where}: device: ONNX Runtime did not load it for {self}; its log says why")

    def empty(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
        """An array whose contents are stale. On the CPU a plain one of numpy. Raises `MemoryError`."""
        if self.kind == "cpu":
            return np.empty(shape, dtype)
        return self._allocated(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
        """As `empty`, filled with zeros; on the CPU memory that is mapped when it is first written."""
        return self.put(np.zeros(shape, dtype))

    def put(self, array: np.ndarray) -> Array:
        """The array there: on the CPU itself, else a copy. Raises `MemoryError`."""
        if self.kind == "cpu":
            return array
        there = self._allocated(array.shape, array.dtype)
        there[...] = array
        return there

    def _allocated(self, shape: tuple[int, ...], dtype: Any) -> DeviceArray:
        try:
            value = ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype, self.kind, self.index)
        except Exception as error:  # ONNX Runtime has no class for it
            raise MemoryError(f"{self}: {np.dtype(dtype)}{list(shape)}: {error}") from None
        return DeviceArray(value, tuple(shape), np.dtype(dtype), self.index)

    def _probe(self) -> None:
        if _CUDA not in ort.get_available_providers():
            raise EngineError(
                f"device: this onnxruntime {ort.__version__} has no CUDA; replace it: pip uninstall onnxruntime, then "
                "pip install 'onnxruntime-gpu[cuda,cudnn]'"
            )
        try:
            self._allocated((1,), np.float32)
        except MemoryError as error:
            raise EngineError(f"device: ONNX Runtime cannot use it ({error}); does nvidia-smi show it?") from None


CPU = Device("cpu")
