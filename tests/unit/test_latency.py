"""LatencyModel: quantiles over a window, without warm-up and without pauses of the machine."""

from __future__ import annotations

import json
import math
import sys
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def test_a_slow_down_stays_in_until_it_ends() -> None:
    """With a full window of cheap samples, the 99 % quantile needs three dear ones to move: five ticks, not more."""
    latency = model()
    for _ in range(100):
        latency.record("decode", 3.0)
    for _ in range(4):
        latency.record("decode", 300.0)
    assert latency.quantile("decode", 0.99) == 300.0
    latency.record("decode", 3.0)
    latency.record("decode", 51_000.0)  # a pause again
    assert latency.quantile("decode", 1.0) == 300.0


@pytest.mark.parametrize("step", [1, 2])
def test_a_pause_in_the_first_sample_that_counts(step: int) -> None:
    """The machine stands still when nothing but the warm-up is known; else no step would fit for a whole window."""
    latency = model(warmup=3)
    for _ in range(3):
        latency.record("denoise", 9.0, 1)
    latency.record("denoise", 51_000.0, step)
    latency.record("denoise", 3.0, 1)
    latency.record("denoise", 3.0, 2)
    assert latency.quantile("denoise", 1.0) == 3.0
    assert latency.quantile("denoise", 1.0, step) == 3.0


@given(st.lists(st.floats(0.1, 1e5), max_size=60), st.integers(1, 4))
def test_it_never_starves_itself(history: list[float], steps: int) -> None:
    """Whatever was measured: once first steps are cheap for a window, every step is taken to be cheap."""
    latency = LatencyModel(window=20)
    for number, cost in enumerate(history):
        latency.record("denoise", cost, number % steps + 1)
    for _ in range(20 + latency.warmup):
        latency.record("denoise", 3.0, 1)
    assert all((latency.quantile("denoise", 1.0, step) or 0.0) <= 3.0 for step in range(1, 6))


# --- what one process hands to the next


def measured(samples: int) -> LatencyModel:
    rng, latency = np.random.default_rng(7), model(window=240)
    for cost in np.round(rng.lognormal(1.0, 0.5, samples), 3).tolist():
        latency.record("denoise", cost, 1)
        latency.record("denoise", 1.1 * cost, 2)
        latency.record("decode", 0.5 * cost)
    return latency


@pytest.mark.parametrize("samples", [1, 7, 100, 101, 240, 400])
def test_what_was_exported_primes_another_model(samples: int) -> None:
    first, second = measured(samples), LatencyModel()  # with a warm-up, which is then over
    exported = first.export()
    assert list(exported) == list(first.summary()) == ["decode", "denoise", "denoise 1", "denoise 2"]
    second.prime(json.loads(json.dumps(exported)))
    for stage, step in [("decode", 0), ("denoise", 0), ("denoise", 1), ("denoise", 2), ("denoise", 3)]:
        for q in (0.5, 0.9, 0.99, 1.0):
            assert second.quantile(stage, q, step) == first.quantile(stage, q, step)
    assert second.export() == exported
    second.record("decode", 1e-3)
    assert second.quantile("decode", 0.001) == 1e-3


def test_primed_costs_leave_the_window_evenly() -> None:
    """Not the cheap ones first: meanwhile the model would take the machine for slower than it was."""
    latency = LatencyModel(window=100)
    latency.prime({"decode": [float(cost) for cost in range(1, 101)]})
    for _ in range(50):
        latency.record("decode", 1000.0)
    assert latency.quantile("decode", 0.25) == pytest.approx(50, abs=5)


def test_steps_alone_prime_their_stage() -> None:
    latency = LatencyModel()
    latency.prime({"denoise 1": [3.0, 4.0], "denoise 2": [5.0], "commit": []})
    assert latency.quantile("denoise", 1.0) == 5.0
    assert latency.quantile("denoise", 1.0, 1) == 4.0
    assert list(latency.summary()) == ["denoise", "denoise 1", "denoise 2"]


@pytest.mark.parametrize(
    "costs",
    [
        {"denoise": [1.0, math.nan]}, {"denoise": [math.inf]}, {"denoise": [-0.1]}, {"denoise": ["3"]},
        {"denoise": [None]}, {"denoise": [True]}, {"denoise": 3.0}, {"denoise": "3"},
        {"denoise 0": [1.0]}, {"denoise  1": [1.0]}, {"denoise -1": [1.0]}, {"denoise one": [1.0]},
        {"denoise 01": [1.0]}, {"": [1.0]}, {"Denoise": [1.0]}, {("denoise", 1): [1.0]},
    ],
)  # fmt: skip
def test_costs_that_are_none_are_refused_as_a_whole(costs: Any) -> None:
    latency = LatencyModel()
    with pytest.raises(ValueError, match="expected"):
        latency.prime({"decode": [2.0], **costs})
    assert latency.summary() == {}


def test_sessions_on_several_threads_share_one_model() -> None:
    latency, failed = model(window=50), []
    start = threading.Barrier(4)

    def use(number: int) -> None:
        rng = np.random.default_rng(number)
        start.wait()
        try:
            for cost in rng.uniform(1.0, 2.0, 15000).tolist():
                latency.record("denoise", cost, 1)
                if number == 0 and cost < 1.05:
                    assert 1.0 <= (latency.quantile("denoise", 0.5, 1) or 0.0) <= 2.0
                    latency.prime(latency.export())
        except Exception as error:  # a thread's failure is the test's
            failed.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not failed
    for _ in range(50):
        latency.record("denoise", 5.0, 1)
    assert latency.export() == {"denoise": [5.0] * 50, "denoise 1": [5.0] * 50}  # nothing was left behind in the window
