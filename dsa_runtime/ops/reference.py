"""What the custom operators compute, in numpy. Every other implementation is compared with this one."""

from __future__ import annotations

import numpy as np


def paged_frame_attention(
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
) -> np.ndarray:
    """Attention of one frame over itself and over the cached frames its table points at.

    query, key, value      float[B, T, H, D]   this frame; every token sees every token
    key_pool, value_pool   float[S, T, H, D]   S slots of one frame each, keys without temporal rotation
    slot_table             int32[B, W]         slots to attend to, 0..S-1; -1 is empty and skipped
    slot_age               int32[B, W]         frames since each slot's frame, >= 0; ignored where empty
    returns                float[B, T, H, D]   in the dtype of `query`

    For a slot of age a the query is rotated by +a, which equals rotating the slot's keys by -a. This frame's
    own keys have age 0. The softmax runs over this frame's T keys and the T keys of each filled slot
    together. Computed in float32 or, if any input is float64, in float64. Raises ValueError for other tables.
    """
    if slot_table.size and not -1 <= slot_table.min() <= slot_table.max() < len(key_pool):
        raise ValueError(f"slot_table: must hold -1 (empty) or slots in 0..{len(key_pool) - 1}")
    if (slot_age[slot_table >= 0] < 0).any():
        raise ValueError("slot_age: must be at least 0")
    precision = np.result_type(query, key, value, key_pool, value_pool, np.float32)
    query_, key_, value_ = (array.astype(precision, copy=False) for array in (query, key, value))
    batch, _, _, head_dim = query.shape
    factor = 1.0 / np.sqrt(head_dim) if scale is None else scale
    output = np.empty(query.shape, precision)
    for b in range(batch):
        scores, values = [_scores(query_[b], key_[b])], [value_[b]]
        for slot, age in zip(slot_table[b].tolist(), slot_age[b].tolist(), strict=True):
            if slot < 0:
                continue
            rotated = rotate(query_[b], age, temporal_dims, theta)
            scores.append(_scores(rotated, key_pool[slot].astype(precision, copy=False)))
            values.append(value_pool[slot].astype(precision, copy=False))
        weights = _softmax(np.concatenate(scores, axis=-1) * precision.type(factor))
        output[b] = np.einsum("hqk,khd->qhd", weights, np.concatenate(values, axis=0))
    return output.astype(query.dtype, copy=False)


def paged_frame_write(frame: np.ndarray, pool: np.ndarray, slot: np.ndarray) -> np.ndarray:
    """The pool with every frame in its slot: how the sessions of a batch commit, one row each.

    frame     float[B, T, H, D]
    pool      float[S, T, H, D]   not changed
    slot      int32[B]            where each frame goes; -1 writes nothing
    returns   float[S, T, H, D]   in the dtype of `pool`

    The kernels work in place where a caller binds input and output to the same memory: then only the slots named
    are touched, and the cost does not depend on S. The result is the same. Raises ValueError for a slot outside of
    -1..S-1 and for a slot named twice, for which there is no right answer.
    """
    if slot.min(initial=0) < -1 or slot.max(initial=-1) >= len(pool):
        raise ValueError(f"slot: must lie in -1..{len(pool) - 1}, got {slot.tolist()}")
    filled = slot[slot >= 0]
    if len(np.unique(filled)) < len(filled):
        raise ValueError(f"slot: named twice in {slot.tolist()}")
    written: np.ndarray = pool.copy()
    written[filled] = frame[slot >= 0]
    return written


def rotate(array: np.ndarray, position: int, temporal_dims: int, theta: float) -> np.ndarray:
    """`array` float[..., D] rotated by `position`: rotary embedding on the first `temporal_dims` dimensions.

    Dimensions i and i + temporal_dims / 2 form a pair, which is turned by the angle
    position * theta**(-2 i / temporal_dims).
    """
    half = temporal_dims // 2
    angle = position * theta ** (-2.0 * np.arange(half) / max(temporal_dims, 1))
    cos, sin = np.cos(angle).astype(array.dtype), np.sin(angle).astype(array.dtype)
    first, second = array[..., :half], array[..., half:temporal_dims]
    turned = (first * cos - second * sin, first * sin + second * cos, array[..., temporal_dims:])
    return np.concatenate(turned, axis=-1)


def _scores(query: np.ndarray, key: np.ndarray) -> np.ndarray:
    scores: np.ndarray = np.einsum("qhd,khd->hqk", query, key)
    return scores


def _softmax(scores: np.ndarray) -> np.ndarray:
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights: np.ndarray = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return weights
