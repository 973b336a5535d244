"""The numpy reference of the operators against their definitions in scalars, and against their laws."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from dsa_runtime.ops.reference import paged_frame_attention, paged_frame_write, rotate
from dsa_runtime.ops.schema import PAGED_FRAME_ATTENTION, PAGED_FRAME_WRITE

B, T, H, D, S, W = 2, 3, 2, 8, 6, 4
OPTIONS: dict[str, Any] = {"temporal_dims": 4, "theta": 50.0}


def example(dtype: Any = np.float64) -> dict[str, Any]:
    rng = np.random.default_rng(11)
    frame = {name: rng.normal(size=(B, T, H, D)).astype(dtype) for name in ("query", "key", "value")}
    pools = {name: rng.normal(size=(S, T, H, D)).astype(dtype) for name in ("key_pool", "value_pool")}
    table = np.array([[4, -1, 0, 2], [-1, 5, -1, -1]], np.int32)
    age = np.array([[3, 1, 1, 2], [9, 7, 1, 1]], np.int32)
    return {**frame, **pools, "slot_table": table, "slot_age": age}


def by_definition(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, key_pool: np.ndarray, value_pool: np.ndarray,
    slot_table: np.ndarray, slot_age: np.ndarray,
    *, scale: float | None = None, temporal_dims: int, theta: float,
) -> np.ndarray:  # fmt: skip
    """The sum written out in scalars: no code shared with the reference, and *keys* rotated by -age."""
    output = np.zeros(query.shape)
    half = temporal_dims // 2
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    for b, t, h in np.ndindex(query.shape[:3]):
        logits, rows = [], []
        sources = [(key[b], value[b], 0)]
        for slot, age in zip(slot_table[b], slot_age[b], strict=True):
            if slot >= 0:
                sources.append((key_pool[slot], value_pool[slot], int(age)))
        for keys, values, age in sources:
            for other in range(keys.shape[0]):
                k = keys[other, h].astype(float).copy()
                for i in range(half):
                    angle = -age * theta ** (-2 * i / temporal_dims)
                    x, y = k[i], k[i + half]
                    k[i] = x * math.cos(angle) - y * math.sin(angle)
                    k[i + half] = x * math.sin(angle) + y * math.cos(angle)
                logits.append(factor * sum(float(a) * float(c) for a, c in zip(query[b, t, h], k, strict=True)))
                rows.append(values[other, h].astype(float))
        weights = [math.exp(logit) for logit in logits]
        output[b, t, h] = sum(w * row for w, row in zip(weights, rows, strict=True)) / sum(weights)
    return output


@pytest.mark.parametrize("scale", [None, 0.7])
@pytest.mark.parametrize("temporal_dims", [0, 2, 4, 8])
def test_definition(scale: float | None, temporal_dims: int) -> None:
    options: dict[str, Any] = {"scale": scale, "temporal_dims": temporal_dims, "theta": 50.0}
    expected = by_definition(**example(), **options)
    np.testing.assert_allclose(paged_frame_attention(**example(), **options), expected, rtol=1e-12, atol=1e-13)


def test_float32_stays_float32_and_close() -> None:
    result = paged_frame_attention(**example(np.float32), **OPTIONS)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, paged_frame_attention(**example(), **OPTIONS), atol=2e-6)


def test_float16_is_computed_in_float32() -> None:
    inputs = example(np.float16)
    result = paged_frame_attention(**inputs, **OPTIONS)
    widened: dict[str, Any] = {name: a if a.dtype == np.int32 else a.astype(np.float32) for name, a in inputs.items()}
    assert result.dtype == np.float16
    np.testing.assert_array_equal(result, paged_frame_attention(**widened, **OPTIONS).astype(np.float16))


def test_empty_slots_are_skipped_whatever_they_hold() -> None:
    inputs = example()
    expected = paged_frame_attention(**inputs, **OPTIONS)
    used = {slot for slot in inputs["slot_table"].ravel().tolist() if slot >= 0}
    for slot in set(range(S)) - used:
        inputs["key_pool"][slot] = inputs["value_pool"][slot] = np.nan
    inputs["slot_age"][inputs["slot_table"] < 0] = 12345
    np.testing.assert_array_equal(paged_frame_attention(**inputs, **OPTIONS), expected)


def test_an_empty_table_leaves_attention_within_the_frame() -> None:
    inputs = example()
    inputs["slot_table"][:] = -1
    frame_only: dict[str, Any] = {
        **inputs,
        "slot_table": np.empty((B, 0), np.int32),
        "slot_age": np.empty((B, 0), np.int32),
    }
    np.testing.assert_array_equal(
        paged_frame_attention(**inputs, **OPTIONS), paged_frame_attention(**frame_only, **OPTIONS)
    )


def test_order_and_place_of_slots_do_not_matter() -> None:
    inputs, moved = example(), example()
    order, places = [3, 0, 2, 1], [2, 5, 0, 3, 1, 4]
    moved["slot_table"], moved["slot_age"] = moved["slot_table"][:, order], moved["slot_age"][:, order]
    for name in ("key_pool", "value_pool"):
        moved[name] = moved[name][places]
    renamed = {old: new for new, old in enumerate(places)} | {-1: -1}
    moved["slot_table"] = np.vectorize(renamed.__getitem__)(moved["slot_table"]).astype(np.int32)
    np.testing.assert_allclose(
        paged_frame_attention(**moved, **OPTIONS), paged_frame_attention(**inputs, **OPTIONS), rtol=1e-12
    )


def test_age_matters_only_with_temporal_dims() -> None:
    inputs, older = example(), example()
    older["slot_age"] = older["slot_age"] + 1
    still = {**OPTIONS, "temporal_dims": 0}
    np.testing.assert_array_equal(paged_frame_attention(**inputs, **still), paged_frame_attention(**older, **still))
    changed = paged_frame_attention(**inputs, **OPTIONS) - paged_frame_attention(**older, **OPTIONS)
    assert np.abs(changed).max() > 1e-3


def test_rotation_is_relative_and_keeps_lengths() -> None:
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, D))
    turned = rotate(q, 5, 4, 50.0) @ k
    assert turned == pytest.approx(q @ rotate(k, -5, 4, 50.0))
    assert turned == pytest.approx(rotate(q, 12, 4, 50.0) @ rotate(k, 7, 4, 50.0))
    assert np.linalg.norm(rotate(q, 5, 4, 50.0)) == pytest.approx(np.linalg.norm(q))
    np.testing.assert_array_equal(rotate(q, 5, 4, 50.0)[4:], q[4:])


@pytest.mark.parametrize(("name", "entry"), [("slot_table", -2), ("slot_table", S), ("slot_age", -1)])
def test_other_tables_are_refused(name: str, entry: int) -> None:
    inputs = example()
    inputs[name][0, 2] = entry
    with pytest.raises(ValueError, match=f"{name}: must"):
        paged_frame_attention(**inputs, **OPTIONS)


def test_schema_matches_the_reference() -> None:
    arguments = list(paged_frame_attention.__annotations__)
    names = [tensor.name for tensor in PAGED_FRAME_ATTENTION.inputs]
    assert arguments[: len(names)] == names
    assert arguments[len(names) : -1] == [attribute.name for attribute in PAGED_FRAME_ATTENTION.attributes]
    assert list(paged_frame_write.__annotations__)[:-1] == [tensor.name for tensor in PAGED_FRAME_WRITE.inputs]


@pytest.mark.parametrize("slots", [[4, 1], [-1, 3], [0, S - 1], [-1, -1]], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_write_by_definition(slots: list[int], dtype: Any) -> None:
    rng = np.random.default_rng(3)
    frame, pool = (rng.normal(size=(n, T, H, D)).astype(dtype) for n in (B, S))
    before = pool.copy()
    written = paged_frame_write(frame, pool, np.array(slots, np.int32))
    for slot in range(S):
        expected = frame[slots.index(slot)] if slot in slots else before[slot]
        np.testing.assert_array_equal(written[slot], expected)
    assert written.dtype == dtype
    np.testing.assert_array_equal(pool, before)


@pytest.mark.parametrize(
    ("slots", "error"),
    [([0, S], "must lie in"), ([-2, 0], "must lie in"), ([3, 3], "twice")],
    ids=["high", "low", "twice"],
)
def test_a_wrong_slot_is_refused(slots: list[int], error: str) -> None:
    frame, pool = np.zeros((B, T, H, D)), np.zeros((S, T, H, D))
    with pytest.raises(ValueError, match=error):
        paged_frame_write(frame, pool, np.array(slots, np.int32))
