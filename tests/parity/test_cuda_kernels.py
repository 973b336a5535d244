"""The CUDA kernels, run on an emulated GPU (tests/emulation), against the numpy reference in float64."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.emulation.emulator import KERNELS, Emulator, build, missing_tool
from tests.parity.cuda_cases import TOLERANCE, TYPES, expected, random_call, relative_error

pytestmark = pytest.mark.skipif(missing_tool() is not None, reason=f"CUDA kernels on the CPU: {missing_tool()}")

LARGE_TILES, SMALL_TILES = 1, 1000  # multiprocessors: with few of them the kernel takes 128 queries at once, else 64
WIDTHS = (32, 64, 128)


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    return Emulator(build(tmp_path_factory.mktemp("emulator")))


def check(emulator: Emulator, kind: str, call: dict[str, Any], schedule: int = 0, tiles: int = 1, **kw: Any) -> None:
    result = emulator.attention(**call, **kw, schedule=schedule, multiprocessors=tiles)
    assert emulator.bank_conflicts() == 0
    assert relative_error(result, expected(call, **kw)) < TOLERANCE[kind]


@pytest.mark.parametrize("tokens", [1, 15, 16, 17, 33, 63, 64, 65, 127, 128, 129, 150])
@pytest.mark.parametrize("head_dim", WIDTHS)
@pytest.mark.parametrize("kind", TYPES)
def test_sizes(emulator: Emulator, kind: str, head_dim: int, tokens: int) -> None:
    seed = tokens + head_dim
    rng = np.random.default_rng(seed)
    batch, heads, window = (int(n) for n in rng.integers(1, [3, 4, 5]))
    dims = int(rng.choice([0, 2, 16, 22, head_dim]))
    call = random_call(seed, kind, batch, tokens, heads, head_dim, window)
    for schedule, tiles in enumerate((LARGE_TILES, SMALL_TILES)):
        check(emulator, kind, call, schedule, tiles, temporal_dims=dims, theta=float(rng.choice([20, 100, 10000])))


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("kind", TYPES)
def test_random_calls(emulator: Emulator, kind: str, seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    head_dim = int(rng.choice(WIDTHS))
    batch, tokens, heads, window = (int(n) for n in rng.integers([1, 1, 1, 0], [4, 80, 4, 5]))
    call = random_call(seed, kind, batch, tokens, heads, head_dim, window, oldest=int(rng.choice([8, 2**31 - 1])))
    tiles = int(rng.choice([LARGE_TILES, SMALL_TILES]))
    scale = rng.choice([None, 0.05, 0.4])
    check(emulator, kind, call, seed, tiles, scale=scale, temporal_dims=2 * int(rng.integers(0, head_dim // 2 + 1)))


@pytest.mark.parametrize("tiles", [LARGE_TILES, SMALL_TILES])
@pytest.mark.parametrize("tokens", [16, 70, 130])
@pytest.mark.parametrize("kind", TYPES)
def test_no_schedule_changes_a_bit(emulator: Emulator, kind: str, tokens: int, tiles: int) -> None:
    """Whatever the order of the warps and the time copies take to arrive: otherwise a barrier is missing."""
    call = random_call(tokens, kind, 1, tokens, 1, 64, 3)
    call["slot_table"][:] = [[2, 0, 1]]
    for pool in ("key_pool", "value_pool"):
        call[pool] = np.nan_to_num(call[pool])
    first = emulator.attention(**call, temporal_dims=20, multiprocessors=tiles)
    for schedule in range(1, 9):
        again = emulator.attention(**call, temporal_dims=20, multiprocessors=tiles, schedule=schedule)
        assert again.tobytes() == first.tobytes(), schedule


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("window", [0, 3])
def test_without_filled_slots(emulator: Emulator, kind: str, window: int) -> None:
    call = random_call(1, kind, 2, 20, 2, 32, window)
    call["slot_table"][:] = -1
    check(emulator, kind, call, temporal_dims=16)
    call["key_pool"], call["value_pool"] = (call[name][:0] for name in ("key_pool", "value_pool"))
    check(emulator, kind, call, temporal_dims=16)


@pytest.mark.parametrize("kind", TYPES)
def test_order_of_slots_does_not_matter(emulator: Emulator, kind: str) -> None:
    call = random_call(2, kind, 2, 40, 2, 64, 4)
    result = emulator.attention(**call, temporal_dims=32).astype(float)
    order = [2, 0, 3, 1]
    call["slot_table"], call["slot_age"] = call["slot_table"][:, order], call["slot_age"][:, order]
    assert relative_error(emulator.attention(**call, temporal_dims=32), result) < TOLERANCE[kind]


@pytest.mark.parametrize("kind", TYPES)
def test_equal_keys_of_different_age_differ_by_rotation_only(emulator: Emulator, kind: str) -> None:
    """One slot twice, at two ages: without rotation the same as once, with twice the weight."""
    call = random_call(3, kind, 1, 24, 1, 64, 2)
    call["slot_table"][:], call["slot_age"][:] = 0, [[1, 3000]]
    call["key_pool"], call["value_pool"] = call["query"].copy(), call["value"].copy()
    for dims in (0, 16, 64):
        check(emulator, kind, call, temporal_dims=dims)


@pytest.mark.parametrize("kind", TYPES)
def test_large_scores(emulator: Emulator, kind: str) -> None:
    """Scores of some thousands: weights of 0 and 1, no overflow on the way."""
    call = random_call(4, kind, 1, 70, 1, 64, 2)
    call["query"] = (call["query"].astype(np.float32) * 64).astype(TYPES[kind])
    check(emulator, kind, call, scale=4.0)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("tiles", [LARGE_TILES, SMALL_TILES])
@pytest.mark.parametrize("entry", [6, 2**31 - 1, -2, -(2**31)])
def test_broken_table_spoils_its_own_session_only(emulator: Emulator, kind: str, tiles: int, entry: int) -> None:
    call = random_call(5, kind, 3, 70, 2, 32, 3)
    truth = expected(call)
    call["slot_table"][1, 2] = entry
    result = emulator.attention(**call, multiprocessors=tiles).astype(float)
    assert np.isnan(result[1]).all()
    others = [0, 2]
    assert relative_error(result[others], truth[others]) < TOLERANCE[kind]


@pytest.mark.parametrize("kind", TYPES)
def test_a_negative_age_counts_where_the_slot_is_filled(emulator: Emulator, kind: str) -> None:
    call = random_call(7, kind, 3, 20, 1, 32, 2)
    call["slot_table"][:] = [[0, 1], [2, 3], [-1, 0]]
    for pool in ("key_pool", "value_pool"):
        call[pool] = np.nan_to_num(call[pool])
    truth = expected(call)
    call["slot_age"][1, 0] = call["slot_age"][2, 0] = -1
    result = emulator.attention(**call).astype(float)
    assert np.isnan(result[1]).all()
    assert relative_error(result[[0, 2]], truth[[0, 2]]) < TOLERANCE[kind]


@pytest.mark.parametrize("kind", TYPES)
def test_nan_in_a_key_is_not_hidden(emulator: Emulator, kind: str) -> None:
    call = random_call(6, kind, 2, 20, 1, 32, 0)
    call["key"][0, 7, 0, 3] = np.nan
    result = emulator.attention(**call).astype(float)
    assert np.isnan(result[0]).all() and np.isfinite(result[1]).all()


@pytest.mark.parametrize("shape", [(4, 16, 2, 32), (3, 5, 1, 3), (2, 1, 1, 1), (2, 700, 4, 32)])
@pytest.mark.parametrize("kind", TYPES)
def test_write(emulator: Emulator, kind: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(7)
    batch, *frame_shape = shape
    frame = rng.normal(size=shape).astype(TYPES[kind])
    pool = rng.normal(size=(6, *frame_shape)).astype(TYPES[kind])
    slot = np.array([5, -1, 0, 3][:batch], np.int32)
    truth = pool.copy()
    for session, target in enumerate(slot):
        if target >= 0:
            truth[target] = frame[session]
    assert emulator.write(frame, pool, slot).tobytes() == truth.tobytes()


@pytest.mark.parametrize("entry", [6, -2, 2**31 - 1, -(2**31)])
def test_write_ignores_slots_out_of_range(emulator: Emulator, entry: int) -> None:
    frame, pool = np.ones((1, 3, 1, 8), np.float32), np.zeros((6, 3, 1, 8), np.float32)
    assert not emulator.write(frame, pool, np.array([entry], np.int32)).any()


@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_scale_has_to_be_positive(emulator: Emulator, scale: float) -> None:
    with pytest.raises(RuntimeError, match="scale"):
        emulator.attention(**random_call(8, "float16", 1, 4, 1, 32, 1), scale=scale)


def test_other_head_widths_are_refused(emulator: Emulator) -> None:
    with pytest.raises(RuntimeError, match="width"):
        emulator.attention(**random_call(8, "float16", 1, 4, 1, 48, 1))


TENSOR_CORE, FLOAT, SESSION = "attention_tensor_core.cuh", "attention_float.cuh", "session.cuh"
MUTATIONS = {
    "no barrier before the value tile is overwritten": (
        TENSOR_CORE, "__syncthreads();  // the key tile has arrived, the value tile is free", ""),
    "no barrier before the key tile is overwritten": (
        TENSOR_CORE, "__syncthreads();  // the value tile has arrived, the key tile is free", ""),
    "no wait for keys": (TENSOR_CORE, "WaitForCopies();\n    __syncthreads();  // the key", "__syncthreads();  //"),
    "no wait for values": (TENSOR_CORE, "WaitForCopies();\n    __syncthreads();  // the value", "__syncthreads();  //"),
    "no meeting before rotated rows are read": (
        TENSOR_CORE, "                 });\n      __syncwarp();", "                 });"),
    "no meeting before the angles are read": (TENSOR_CORE, "lane, 32);\n      __syncwarp();", "lane, 32);"),
    "no swizzle": (TENSOR_CORE, "(chunk ^ Permutation(row)) * 16", "chunk * 16"),
    "swizzle ignored": (TENSOR_CORE, "(value_address ^ (32 * n))", "value_address + 32 * n"),
    "mask off by one": (TENSOR_CORE, "i % 2 < keys) continue", "i % 2 <= keys) continue"),
    "no mask": (TENSOR_CORE, "if (keys < kKeys)", "if (false)"),
    "keys' halves exchanged": (TENSOR_CORE, "query[g], key[0], key[1]", "query[g], key[1], key[0]"),
    "output not rescaled": (TENSOR_CORE, "output[g][n][2 * half + 1] *= shrink;", ""),
    "total not rescaled": (TENSOR_CORE, "fmaf(total[g][half], shrink, sum)", "total[g][half] + sum"),
    "rotation backwards": (SESSION, "first * cosine - second * sine", "first * cosine + second * sine"),
    "angle in single precision": (
        SESSION, "static_cast<float>(static_cast<std::int32_t>(phase >> 32)) * 0x1p-31f",
        "static_cast<float>(a.turns[i]) * 0x1p-63f * static_cast<float>(age)"),
    "broken table not seen": (SESSION, "table[w] < -1 ||", ""),
    "empty slots not skipped": (SESSION, "if (slot < 0) continue;", "if (slot < -1) continue;"),
    "float: no barrier before the tiles are overwritten": (
        FLOAT, "__syncthreads();  // all of shared memory is free", ""),
    "float: no meeting before weights are read": (
        FLOAT, "__syncwarp();  // a row's weights are written and read by one warp", ""),
    "float: no mask": (FLOAT, "if (x + 16 * k >= keys)", "if (false)"),
    "float: not rescaled": (FLOAT, "output[r][c] *= shrink", "output[r][c] *= 1"),
    "large shared memory not asked for": ("launch.cu", "shared_bytes > 48 * 1024", "false"),
    "write: no upper bound": ("write.cuh", "target < 0 || target >= slots", "target < 0"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_these_tests_notice(name: str, tmp_path: Path) -> None:
    """A kernel with one fault built in fails a test of this file."""
    file, old, new = MUTATIONS[name]
    kernels = tmp_path / "csrc" / "cuda"
    shutil.copytree(KERNELS, kernels)
    shutil.copy(KERNELS.parent / "problem.h", kernels.parent)
    source = (kernels / file).read_text()
    assert source.count(old) == 1
    (kernels / file).write_text(source.replace(old, new))
    broken = Emulator(build(tmp_path, kernels))
    with pytest.raises((AssertionError, RuntimeError)):
        for kind in TYPES:
            test_sizes(broken, kind, 64, 65)
            test_sizes(broken, kind, 128, 129)
            test_no_schedule_changes_a_bit(broken, kind, 70, LARGE_TILES)
            test_broken_table_spoils_its_own_session_only(broken, kind, LARGE_TILES, -2)
        test_write_ignores_slots_out_of_range(broken, 6)
