"""The compiled operators on the CPU against the numpy reference in float64, and against their laws."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from dsa_runtime.ops.build import INSTRUCTION_SETS
from dsa_runtime.ops.library import LibraryMissing, find
from dsa_runtime.ops.reference import paged_frame_write
from tests import attention_cases
from tests.attention_cases import CORNERS, LIMITS, Case, error, one_node, open_session, random_cases, run

try:
    find()
except LibraryMissing as problem:
    pytest.skip(f"no operator library: {problem}", allow_module_level=True)


@pytest.mark.parametrize("kind", LIMITS)
def test_parity(kind: str) -> None:
    assert attention_cases.worst(kind, run, 40) < LIMITS[kind]


@pytest.fixture(scope="module")
def forced() -> Iterator[dict[str, Future[subprocess.CompletedProcess[str]]]]:
    """What processes say in which each instruction set was asked for; they run side by side."""

    def ask(instruction_set: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"DSA_OPS_ISA": instruction_set}
        command = [sys.executable, "-m", "tests.attention_cases"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {instruction_set: pool.submit(ask, instruction_set) for instruction_set in INSTRUCTION_SETS}


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_parity_of_every_instruction_set(
    forced: dict[str, Future[subprocess.CompletedProcess[str]]], instruction_set: str
) -> None:
    result = forced[instruction_set].result()
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    if found["instruction_set"] != instruction_set:
        pytest.skip(f"this processor has no {instruction_set}")
    assert all(found["errors"][kind] < LIMITS[kind] for kind in LIMITS), found


@pytest.mark.slow
@pytest.mark.parametrize("case", [Case(16, 256, 2, 64, 40, 8, 0.9, 16, 1), Case(1, 2048, 2, 64, 6, 6, 1.0, 16, 2)])
def test_parity_of_large_calls(case: Case) -> None:
    inputs = case.inputs(np.float32, np.float32)
    assert error(case, inputs, run(case, inputs, threads=2)) < LIMITS["float32"]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), data=st.data())
def test_the_order_and_the_place_of_slots_do_not_matter(seed: int, data: st.DataObject) -> None:
    case = next(random_cases(1, seed))
    inputs = case.inputs(np.float32, np.float32)
    expected = run(case, inputs)
    order = data.draw(st.permutations(range(case.window)))
    places = np.array(data.draw(st.permutations(range(case.slots))), np.int32)
    moved = dict(inputs)
    table = inputs["slot_table"][:, order]
    moved["slot_table"] = np.where(table < 0, -1, places[table]).astype(np.int32)
    moved["slot_age"] = inputs["slot_age"][:, order]
    for name in ("key_pool", "value_pool"):
        moved[name] = np.empty_like(inputs[name])
        moved[name][places] = inputs[name]
    assert np.abs(run(case, moved) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_empty_slots_are_skipped_whatever_they_hold() -> None:
    case = Case(2, 20, 2, 32, 6, 5, 0.5, 8, 3)
    inputs = case.inputs(np.float32, np.float32)
    expected = run(case, inputs)
    used = set(inputs["slot_table"].ravel().tolist())
    for slot in set(range(case.slots)) - used:
        inputs["key_pool"][slot] = inputs["value_pool"][slot] = np.nan
    inputs["slot_age"][inputs["slot_table"] < 0] = -7
    np.testing.assert_array_equal(run(case, inputs), expected)


def test_threads_batches_and_repetition_change_no_bit() -> None:
    """A session's frames may not depend on who else is in the batch, nor on who computed them."""
    case = Case(4, 64, 6, 32, 9, 8, 0.8, 16, 5)
    inputs = case.inputs(np.float32, np.float32)
    together = run(case, inputs)
    np.testing.assert_array_equal(run(case, inputs, threads=2), together)
    for b in range(case.batch):
        own = {n: a if n.endswith("pool") else a[b : b + 1] for n, a in inputs.items()}
        np.testing.assert_array_equal(run(case, own)[0], together[b])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["query", "key", "value", "key_pool", "value_pool"])
def test_what_is_not_finite_comes_through(name: str, value: float) -> None:
    """Or a world that has diverged would look as if it had not."""
    assert attention_cases.spreads(name, value)


def test_large_scores_stay_finite() -> None:
    case = Case(1, 20, 1, 32, 2, 2, 1.0, 0, 6, scale=1.0)
    inputs = case.inputs(np.float32, np.float32)
    for name in ("query", "key", "key_pool"):
        inputs[name] *= 100.0
    assert error(case, inputs, run(case, inputs)) < 1e-4  # scores of some 10^5 have few digits left of the point


def test_concurrent_runs_of_one_session_are_independent() -> None:
    cases = [Case(1, 64, 6, 32, 9, 8, 1.0, 16, seed) for seed in range(4)]
    inputs = [case.inputs(np.float32, np.float32) for case in cases]
    session = open_session(one_node(cases[0]), threads=2)
    expected = [session.run(None, given)[0] for given in inputs]
    failures: list[Any] = []

    def work(index: int) -> None:
        for _ in range(30):
            if not np.array_equal(session.run(None, inputs[index])[0], expected[index]):
                failures.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def write_session(dtype: int = TensorProto.FLOAT) -> ort.InferenceSession:
    inputs = [
        helper.make_tensor_value_info("frame", dtype, list("BTHD")),
        helper.make_tensor_value_info("pool", dtype, list("STHD")),
        helper.make_tensor_value_info("slot", TensorProto.INT32, ["B"]),
    ]
    node = helper.make_node("PagedFrameWrite", ["frame", "pool", "slot"], ["written"], domain="dsa")
    graph = helper.make_graph([node], "w", inputs, [helper.make_tensor_value_info("written", dtype, list("STHD"))])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("dsa", 1)]
    return open_session(helper.make_model(graph, opset_imports=opsets, ir_version=10))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_write_returns_a_new_pool_where_nothing_is_bound(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    frame, pool = (rng.normal(size=(n, 5, 2, 8)).astype(dtype) for n in (3, 7))
    before, slot = pool.copy(), np.array([4, -1, 0], np.int32)
    session = write_session(TensorProto.FLOAT if dtype is np.float32 else TensorProto.FLOAT16)
    (written,) = session.run(None, {"frame": frame, "pool": pool, "slot": slot})
    np.testing.assert_array_equal(pool, before)
    np.testing.assert_array_equal(written, paged_frame_write(frame, pool, slot))
    assert (written != before).any(axis=(1, 2, 3)).tolist() == [True, False, False, False, True, False, False]


def test_write_fills_a_bound_pool_in_place() -> None:
    rng = np.random.default_rng(1)
    frame, pool = (rng.normal(size=(n, 5, 2, 8)).astype(np.float32) for n in (2, 4))
    slot = np.array([3, 1], np.int32)
    expected = paged_frame_write(frame, pool, slot)
    pool[[0, 2]] = np.nan  # stays as it is: nothing else is touched
    expected[[0, 2]] = np.nan
    session = write_session()
    binding = session.io_binding()
    for name, array in (("frame", frame), ("pool", pool), ("slot", slot)):
        binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
    binding.bind_output("written", "cpu", 0, np.float32, pool.shape, pool.ctypes.data)
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(pool, expected)


def test_the_cases_cover_what_they_promise() -> None:
    tables = [case.inputs(np.float32, np.float32)["slot_table"] for case in CORNERS]
    assert any((table < 0).all() and table.size for table in tables) and any((table >= 0).all() for table in tables)
    assert any(len(set(row[row >= 0])) < len(row[row >= 0]) for table in tables for row in table)
    assert {1, 64} <= {case.window for case in CORNERS} and {1, 2048} <= {case.tokens for case in CORNERS}
    assert {1, 16} <= {case.batch for case in CORNERS}
