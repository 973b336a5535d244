"""The CUDA kernels on a GPU against the numpy reference in float64, without ONNX Runtime between.

For memory errors and races: compute-sanitizer [--tool racecheck] python -m pytest tests/parity/test_cuda_device.py
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.cuda_launch import CudaLibrary, build, missing
from tests.parity.cuda_cases import TENSORS, TOLERANCE, TYPES, expected, random_call, relative_error

pytestmark = pytest.mark.skipif(missing() is not None, reason=f"CUDA kernels on a GPU: {missing()}")


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> CudaLibrary:
    return CudaLibrary(build(tmp_path_factory.mktemp("cuda")))


def on_gpu(array: np.ndarray) -> Any:
    import torch

    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.astype(np.float32)).cuda().bfloat16()
    return torch.from_numpy(array).cuda()


def run(kernels: CudaLibrary, call: dict[str, Any], **attributes: Any) -> np.ndarray:
    output = kernels.attention(**{name: on_gpu(array) for name, array in call.items()}, **attributes)
    result: np.ndarray = output.float().cpu().numpy()
    return result


@pytest.mark.parametrize("head_dim", [32, 64, 128])
@pytest.mark.parametrize("tokens", [1, 16, 63, 64, 65, 256, 1000, 2048])
@pytest.mark.parametrize("kind", TYPES)
def test_sizes(kernels: CudaLibrary, kind: str, tokens: int, head_dim: int) -> None:
    large = tokens > 256
    batch, heads, window = (1, 1, 2) if large else (3, 3, 6)
    call = random_call(tokens + head_dim, kind, batch, tokens, heads, head_dim, window)
    attributes = {"scale": head_dim**-0.5, "temporal_dims": 16, "theta": 20.0}
    assert relative_error(run(kernels, call, **attributes), expected(call, **attributes)) < TOLERANCE[kind]


@pytest.mark.parametrize(("batch", "tokens", "window"), [(16, 16, 64), (16, 1, 64), (64, 64, 8), (2, 300, 0)])
@pytest.mark.parametrize("kind", TYPES)
def test_batches(kernels: CudaLibrary, kind: str, batch: int, tokens: int, window: int) -> None:
    call = random_call(batch + tokens, kind, batch, tokens, 2, 64, window)
    attributes = {"scale": 0.125, "temporal_dims": 64, "theta": 100.0}
    assert relative_error(run(kernels, call, **attributes), expected(call, **attributes)) < TOLERANCE[kind]


@pytest.mark.parametrize("kind", TYPES)
def test_repetition_changes_no_bit(kernels: CudaLibrary, kind: str) -> None:
    call = random_call(1, kind, 4, 200, 4, 64, 5)
    attributes = {"scale": 0.125, "temporal_dims": 16, "theta": 20.0}
    first = run(kernels, call, **attributes)
    assert all(np.array_equal(run(kernels, call, **attributes), first) for _ in range(20))


@pytest.mark.parametrize("entry", [-2, 10**6])
def test_a_broken_table_spoils_its_own_session_only(kernels: CudaLibrary, entry: int) -> None:
    call = random_call(2, "float16", 3, 70, 2, 64, 4)
    attributes = {"scale": 0.125, "temporal_dims": 16, "theta": 20.0}
    whole = run(kernels, call, **attributes)
    call["slot_table"][1, 2] = entry
    result = run(kernels, call, **attributes)
    assert np.isnan(result[1]).all()
    np.testing.assert_array_equal(result[[0, 2]], whole[[0, 2]])


@pytest.mark.parametrize("kind", TYPES)
def test_write(kernels: CudaLibrary, kind: str) -> None:
    call = random_call(3, kind, 3, 40, 2, 64, 4)
    frame, pool = on_gpu(call["query"]), on_gpu(np.nan_to_num(call["key_pool"]))
    before = pool.clone()
    kernels.write(frame, pool, on_gpu(np.array([5, -1, 0], np.int32)))
    before[5], before[0] = frame[0], frame[2]
    assert bool((pool == before).all())


def test_the_cases_hold_nan_where_nothing_may_be_read() -> None:
    call = random_call(1, "float32", 2, 8, 1, 32, 4)
    assert any(np.isnan(call[name]).any() for name in TENSORS)
