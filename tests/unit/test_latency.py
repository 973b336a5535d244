"""LatencyModel: quantiles over a window, without warm-up and without pauses of the machine."""

from __future__ import annotations

import numpy as np
import pytest

from dsa_runtime.latency import LatencyModel, SlidingQuantile


def model(**options: float) -> LatencyModel:
    return LatencyModel(**{"window": 100, "warmup": 0, **options})  # type: ignore[arg-type]


def test_sliding_quantile_equals_sorting_the_window() -> None:
    rng = np.random.default_rng(3)
    values = np.round(rng.exponential(1.0, 500), 2)  # rounding makes ties
    sliding = SlidingQuantile(64)
    for count, value in enumerate(values, 1):
        sliding.add(value)
        window = np.sort(values[max(0, count - 64) : count])
        for q in (0.01, 0.5, 0.9, 0.99, 1.0):
            assert sliding.quantile(q) == window[max(int(np.ceil(q * len(window))), 1) - 1]
    assert len(sliding) == 64


def test_nothing_is_known_at_first() -> None:
    assert model().quantile("denoise", 0.99, 1) is None
    assert model().summary() == {}


def test_warm_up_is_left_out() -> None:
    latency = model(warmup=3)
    for cost in (90.0, 80.0, 70.0):
        latency.record("decode", cost)
    assert latency.quantile("decode", 0.99) is None
    latency.record("decode", 2.0)
    assert latency.quantile("decode", 0.99) == 2.0


def test_an_unmeasured_step_costs_what_steps_cost() -> None:
    latency = model()
    latency.record("denoise", 3.0, 1)
    assert latency.quantile("denoise", 0.99, 4) == 3.0


def test_a_step_that_was_slow_once_is_cleared_by_the_others() -> None:
    latency = model()
    for _ in range(50):
        latency.record("denoise", 3.0, 1)
    latency.record("denoise", 40.0, 2)
    before = latency.quantile("denoise", 0.99, 2)
    for _ in range(150):  # step 2 is never admitted again
        latency.record("denoise", 3.0, 1)
    assert before == 40.0
    assert latency.quantile("denoise", 0.99, 2) == 3.0


def test_a_pause_of_the_machine_is_no_cost() -> None:
    latency = model()
    for _ in range(10):
        latency.record("denoise", 3.0, 1)
    latency.record("denoise", 51_000.0, 1)
    assert latency.quantile("denoise", 1.0, 1) == 3.0


def test_a_lasting_slow_down_enters_however_large() -> None:
    latency = model()
    for _ in range(10):
        latency.record("denoise", 3.0, 1)
    for _ in range(5):
        latency.record("denoise", 300.0, 1)
    assert latency.quantile("denoise", 0.99, 1) == 300.0


def test_it_forgets_what_left_the_window() -> None:
    latency = model(window=20)
    for cost in [9.0] * 20 + [3.0] * 20:
        latency.record("decode", cost)
    assert latency.quantile("decode", 1.0) == 3.0


def test_summary() -> None:
    latency = model()
    for cost in range(1, 101):
        latency.record("denoise", float(cost), 1)
    latency.record("decode", 5.0)
    summary = latency.summary()
    assert list(summary) == ["decode", "denoise", "denoise 1"]
    assert summary["denoise 1"].samples == 100
    assert (summary["denoise 1"].p50_ms, summary["denoise 1"].p99_ms) == pytest.approx((50.0, 99.0))
