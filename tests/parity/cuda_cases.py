"""Random calls of PagedFrameAttention, for the tests of its CUDA kernels."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from dsa_runtime.ops.reference import paged_frame_attention

TYPES: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}
"""Largest difference over the largest number of the result. Half a step of bfloat16 alone is 2e-3."""
POOLS = ("key_pool", "value_pool")
TENSORS = ("query", "key", "value", *POOLS)


def random_call(
    seed: int, kind: str, batch: int, tokens: int, heads: int, head_dim: int, window: int, oldest: int = 5000
) -> dict[str, Any]:
    """Inputs by name, tensors of type `kind`. Entries of the table are empty, shared by sessions and repeated; slots
    that no table names hold NaN."""
    rng = np.random.default_rng(seed)
    slots = max(1, 2 * window)
    frames = {name: rng.normal(size=(batch, tokens, heads, head_dim)) for name in ("query", "key", "value")}
    pools = {name: rng.normal(size=(slots, tokens, heads, head_dim)) for name in POOLS}
    table = rng.integers(-1, slots, size=(batch, window)).astype(np.int32)
    table[rng.random(table.shape) < 0.2] = -1
    unused = np.setdiff1d(np.arange(slots), table)
    for pool in pools.values():
        pool[unused] = np.nan
    age = rng.integers(1, oldest, size=(batch, window), endpoint=True).astype(np.int32)
    tensors = {name: array.astype(TYPES[kind]) for name, array in {**frames, **pools}.items()}
    return {**tensors, "slot_table": table, "slot_age": age}


def expected(call: dict[str, Any], **attributes: Any) -> np.ndarray:
    """The reference's result in float64."""
    exact = {name: array.astype(np.float64) if name in TENSORS else array for name, array in call.items()}
    return paged_frame_attention(**exact, **attributes)


def relative_error(result: np.ndarray, truth: np.ndarray) -> float:
    """Largest difference over the largest number of `truth`; NaN if `result` holds one."""
    return float(np.abs(result.astype(np.float64) - truth).max() / np.abs(truth).max())
