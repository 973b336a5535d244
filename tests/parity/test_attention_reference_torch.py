"""The torch form of PagedFrameAttention, which training and export use, against the numpy reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dsa_runtime.ops.reference import paged_frame_attention

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("temporal_dims", [0, 4, 8])
@pytest.mark.parametrize(
    "table",
    [
        [[4, 2, 0, 1], [3, 1, 4, 5]],
        [[4, -1, 0, -1], [-1, 5, -1, -1]],
        [[-1, -1, -1, -1], [0, 1, 2, 3]],
    ],
    ids=["full", "partly empty", "one empty"],
)
def test_torch_equals_the_reference(table: list[list[int]], temporal_dims: int) -> None:
    from exporters.model.attention import paged_attention

    rng = np.random.default_rng(1)
    frame = [rng.normal(size=(2, 5, 3, 8)).astype(np.float32) for _ in range(3)]
    pools = [rng.normal(size=(6, 5, 3, 8)).astype(np.float32) for _ in range(2)]
    tables: list[Any] = [np.array(table, np.int32), np.array([[4, 3, 2, 1], [9, 1, 7, 2]], np.int32)]
    inputs = (*frame, *pools, *tables)
    expected = paged_frame_attention(
        *(array.astype(np.float64) if array.dtype == np.float32 else array for array in inputs),
        temporal_dims=temporal_dims,
        theta=50.0,
    )
    result = paged_attention(*map(torch.from_numpy, inputs), temporal_dims, 50.0)
    np.testing.assert_allclose(result.numpy(), expected, atol=2e-6)
