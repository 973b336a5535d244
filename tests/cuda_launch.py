"""The CUDA kernels on torch's tensors, without ONNX Runtime between: for machines with a GPU and `nvcc`."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from typing import Any

from dsa_runtime.ops.build import SOURCES, find_nvcc
from tests.emulation.emulator import FrameAttention, FrameWrite

TYPES = {"torch.float32": 0, "torch.float16": 1, "torch.bfloat16": 2}  # dsa::Type


def no_gpu() -> str | None:
    """Why PyTorch has no GPU to work on; None if it has."""
    try:
        import torch
    except ImportError:
        return "PyTorch is not installed"
    return None if torch.cuda.is_available() else "PyTorch sees no GPU"


def missing() -> str | None:
    """Why this cannot be used here; None if it can."""
    return no_gpu() or (None if find_nvcc() else "no nvcc")


def build(folder: Path, architecture: str = "native") -> Path:
    """Compile the kernels for this machine's GPU into a library in `folder`."""
    nvcc = find_nvcc()
    assert nvcc is not None
    library = folder / "cuda_launch.so"
    flags = ["-std=c++17", "-O3", f"-arch={architecture}", "-lineinfo", "-Xcompiler=-fPIC", "-shared", f"-I{SOURCES}"]
    sources = [str(SOURCES / "cuda" / "launch.cu"), str(Path(__file__).parent / "native" / "device_entry.cpp")]
    subprocess.run([nvcc, *flags, *sources, "-o", str(library)], check=True)
    return library


class CudaLibrary:
    """The kernels of a library made by `build`, on torch's current stream. Raises RuntimeError."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.DsaAttention.restype = self._library.DsaWrite.restype = ctypes.c_char_p

    def attention(
        self,
        query: Any,
        key: Any,
        value: Any,
        key_pool: Any,
        value_pool: Any,
        slot_table: Any,
        slot_age: Any,
        *,
        scale: float,
        temporal_dims: int,
        theta: float,
        output: Any = None,
    ) -> Any:
        """PagedFrameAttention of contiguous CUDA tensors, asynchronously; `output` is made unless given."""
        import torch

        result = torch.empty_like(query) if output is None else output
        batch, tokens, heads, head_dim = query.shape
        kind = TYPES[str(query.dtype)]
        inputs = (query, key, value, key_pool, value_pool, slot_table, slot_age)
        call = FrameAttention(
            *(batch, tokens, heads, head_dim, key_pool.shape[0], slot_table.shape[1]),
            *(scale, temporal_dims, theta, kind, kind),
            *(tensor.data_ptr() for tensor in (*inputs, result)),
        )
        self._check(self._library.DsaAttention(ctypes.byref(call), _stream()))
        return result

    def write(self, frame: Any, pool: Any, slot: Any) -> None:
        """PagedFrameWrite into `pool` itself."""
        call = FrameWrite(
            *(len(frame), frame[0].numel(), len(pool), TYPES[str(frame.dtype)]),
            *(tensor.data_ptr() for tensor in (frame, slot, pool)),
        )
        self._check(self._library.DsaWrite(ctypes.byref(call), _stream()))

    @staticmethod
    def _check(problem: bytes | None) -> None:
        if problem is not None:
            raise RuntimeError(problem.decode())


def _stream() -> ctypes.c_void_p:
    import torch

    return ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
