"""The CUDA kernels on a GPU, called by onnxruntime, against the numpy reference in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dsa_runtime.ops import library
from dsa_runtime.ops.reference import paged_frame_write
from dsa_runtime.ops.schema import PAGED_FRAME_ATTENTION, PAGED_FRAME_WRITE
from tests.parity.cuda_cases import TENSORS, TOLERANCE, TYPES, expected, random_call, relative_error

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def needs_kernels() -> None:
    try:
        found = library.find()
    except library.LibraryMissing as missing:
        pytest.skip(f"operator library: {missing}")
    if not found.cuda:
        pytest.skip("operator library: built without CUDA kernels")


def run(
    kind: str, call: dict[str, Any], scale: float = 0.125, temporal_dims: int = 0, theta: float = 100.0
) -> np.ndarray:
    from tests.parity.cuda_models import cuda_session, operator_model

    attributes = {"scale": scale, "temporal_dims": temporal_dims, "theta": theta}
    session = cuda_session(operator_model(PAGED_FRAME_ATTENTION, kind, cast=True, **attributes))
    feed = {name: array.astype(np.float32) if name in TENSORS else array for name, array in call.items()}
    result: np.ndarray = session.run(None, feed)[0]
    return result


@pytest.mark.parametrize(
    ("batch", "tokens", "heads", "head_dim", "window"),
    [
        (1, 1, 1, 32, 1),
        (16, 16, 6, 32, 8),
        (3, 65, 2, 64, 64),
        (16, 64, 6, 64, 16),
        (2, 129, 3, 128, 5),
        (1, 300, 12, 128, 3),
        (4, 1024, 4, 64, 2),
        (1, 2048, 2, 128, 4),
        (1, 2047, 1, 32, 6),
        (64, 144, 4, 32, 0),
    ],
)
@pytest.mark.parametrize("kind", TYPES)
def test_parity(kind: str, batch: int, tokens: int, heads: int, head_dim: int, window: int) -> None:
    call = random_call(tokens, kind, batch, tokens, heads, head_dim, window)
    for dims in (0, 22, head_dim):
        attributes: dict[str, Any] = {"scale": head_dim**-0.5, "temporal_dims": dims, "theta": 100.0}
        assert relative_error(run(kind, call, **attributes), expected(call, **attributes)) < TOLERANCE[kind]


@pytest.mark.parametrize("kind", TYPES)
def test_twice_the_same_bits(kind: str) -> None:
    """A result that moves is a race."""
    call = random_call(1, kind, 4, 700, 8, 128, 4)
    first = run(kind, call, temporal_dims=44)
    for _ in range(5):
        assert run(kind, call, temporal_dims=44).tobytes() == first.tobytes()


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("entry", [6, 2**31 - 1, -2])
def test_broken_table_spoils_its_own_session_only(kind: str, entry: int) -> None:
    call = random_call(5, kind, 3, 70, 2, 32, 3)
    truth = expected(call, scale=0.125)
    call["slot_table"][1, 2] = entry
    result = run(kind, call)
    assert np.isnan(result[1]).all()
    assert relative_error(result[[0, 2]], truth[[0, 2]]) < TOLERANCE[kind]


@pytest.mark.parametrize("kind", TYPES)
def test_write(kind: str) -> None:
    from tests.parity.cuda_models import cuda_session, operator_model

    rng = np.random.default_rng(7)
    frame, pool = (rng.normal(size=(n, 33, 2, 32)).astype(TYPES[kind]).astype(np.float32) for n in (3, 8))
    slot = np.array([5, -1, 0], np.int32)
    session = cuda_session(operator_model(PAGED_FRAME_WRITE, kind, cast=True))
    result = session.run(None, {"frame": frame, "pool": pool, "slot": slot})[0]
    assert result.tobytes() == paged_frame_write(frame, pool, slot).tobytes()
