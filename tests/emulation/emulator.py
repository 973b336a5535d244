"""Builds the CUDA kernels for the emulated GPU and calls them with numpy arrays."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import ml_dtypes
import numpy as np

import dsa_runtime.ops

HERE = Path(__file__).parent
KERNELS = Path(dsa_runtime.ops.__file__).parent / "csrc" / "cuda"
TYPES = {np.dtype(np.float32): 0, np.dtype(np.float16): 1, np.dtype(ml_dtypes.bfloat16): 2}  # dsa::Type
MARGIN = 512  # bytes around every tensor that hold NaN


class FrameAttention(ctypes.Structure):
    """`dsa::FrameAttention` of problem.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "tokens", "heads", "head_dim", "slots", "window")),
        ("scale", ctypes.c_float),
        ("temporal_dims", ctypes.c_int),
        ("theta", ctypes.c_float),
        ("type", ctypes.c_int),
        ("pool_type", ctypes.c_int),
        *((name, ctypes.c_void_p) for name in ("query", "key", "value", "key_pool", "value_pool")),
        *((name, ctypes.c_void_p) for name in ("slot_table", "slot_age", "output")),
    )


class FrameWrite(ctypes.Structure):
    """`dsa::FrameWrite` of problem.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "frame_elements", "slots")),
        ("type", ctypes.c_int),
        *((name, ctypes.c_void_p) for name in ("frame", "slot", "pool")),
    )


def missing_tool() -> str | None:
    """Why the emulator cannot be built here; None if it can."""
    return None if shutil.which("g++") else "no g++"


def build(folder: Path, kernels: Path = KERNELS) -> Path:
    """Compiles the emulator with the sources in `kernels` into a library in `folder`."""
    library = folder / "emulated_kernels.so"
    # A fortified longjmp would take the switch to another fiber's stack for an attack.
    flags = ["-std=c++17", "-O2", "-fPIC", "-shared", "-U_FORTIFY_SOURCE", "-DDSA_EMULATE", f"-I{HERE}", f"-I{kernels}"]
    sources = [str(HERE / "simt.cpp"), str(HERE / "entry.cpp"), "-x", "c++", str(kernels / "launch.cu")]
    subprocess.run(["g++", *flags, *sources, "-o", str(library)], check=True)
    return library


class Guarded:
    """A copy of an array with NaN before and behind it, aligned like memory of a GPU."""

    def __init__(self, array: np.ndarray) -> None:
        self._memory = np.full(array.nbytes + 2 * MARGIN + 256, 0xFF, np.uint8)
        self._first = MARGIN + -(self._memory.ctypes.data + MARGIN) % 256
        self.array = self._memory[self._first : self._first + array.nbytes].view(array.dtype).reshape(array.shape)
        self.array[...] = array

    @property
    def pointer(self) -> int:
        return self._memory.ctypes.data + self._first

    def is_intact(self) -> bool:
        """Whether nothing was written beside the array."""
        behind = self._first + self.array.nbytes
        return bool((self._memory[: self._first] == 0xFF).all() and (self._memory[behind:] == 0xFF).all())


class Emulator:
    """The kernels of a library made by `build`. Raises RuntimeError for what a kernel is not allowed to do."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.DsaEmulationAllowReads.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        self._library.DsaEmulationAttention.restype = ctypes.c_char_p
        self._library.DsaEmulationWrite.restype = ctypes.c_char_p
        self._library.DsaEmulationBankConflicts.restype = ctypes.c_long

    def attention(
        self,
        query: np.ndarray,
        key: np.ndarray,
        value: np.ndarray,
        key_pool: np.ndarray,
        value_pool: np.ndarray,
        slot_table: np.ndarray,
        slot_age: np.ndarray,
        *,
        scale: float | None = None,
        temporal_dims: int = 0,
        theta: float = 100.0,
        schedule: int = 0,
        multiprocessors: int = 1,
    ) -> np.ndarray:
        """PagedFrameAttention, as `dsa_runtime.ops.reference`; tensors of one type of `TYPES`.

        schedule          the order in which warps run: 0 forward, 1 backward, others random
        multiprocessors   of the GPU, by which the kernel chooses its tiles: few for the large, many for the small
        """
        self._library.DsaEmulationConfigure(schedule, multiprocessors)
        arrays = [query, key, value, key_pool, value_pool, slot_table, slot_age]
        inputs = [Guarded(array) for array in arrays]
        for guarded in inputs:
            self._library.DsaEmulationAllowReads(guarded.pointer, guarded.array.nbytes)
        output = Guarded(np.full(query.shape, 77, query.dtype))
        batch, tokens, heads, head_dim = query.shape
        factor = head_dim**-0.5 if scale is None else scale
        kind = TYPES[query.dtype]
        call = FrameAttention(
            *(batch, tokens, heads, head_dim, key_pool.shape[0], slot_table.shape[1]),
            *(factor, temporal_dims, theta, kind, kind),
            *(guarded.pointer for guarded in [*inputs, output]),
        )
        self._check(self._library.DsaEmulationAttention(ctypes.byref(call)))
        assert output.is_intact(), "a write beside the output"
        return output.array

    def write(self, frame: np.ndarray, pool: np.ndarray, slot: np.ndarray) -> np.ndarray:
        """PagedFrameWrite into a copy of `pool`."""
        self._library.DsaEmulationConfigure(0, 1)
        source, target, slots = Guarded(frame), Guarded(pool), Guarded(slot)
        call = FrameWrite(
            *(len(frame), frame[0].size, len(pool), TYPES[frame.dtype]), source.pointer, slots.pointer, target.pointer
        )
        self._check(self._library.DsaEmulationWrite(ctypes.byref(call)))
        assert target.is_intact(), "a write beside the pool"
        return target.array

    def bank_conflicts(self) -> int:
        """Rows that the last call's matrix loads fetched one after another for being in the same banks."""
        return int(self._library.DsaEmulationBankConflicts())

    @staticmethod
    def _check(problem: bytes | None) -> None:
        if problem is not None:
            raise RuntimeError(problem.decode())
