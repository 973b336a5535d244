"""The cost model: published figures, the roofline by hand, capacity as the largest batch that fits."""

from __future__ import annotations

import dataclasses

import pytest

from dsa_runtime import WorldSpec
from dsa_runtime.cost import published
from dsa_runtime.cost.capacity import HOST_MS, USABLE_MEMORY, capacity
from dsa_runtime.cost.cost import Cost, total
from dsa_runtime.cost.device import DEVICES, Device
from dsa_runtime.cost.efficiency import HIGH, LOW, PEAK, USUAL, Efficiency
from dsa_runtime.cost.memory import memory_of
from dsa_runtime.cost.named import find_shape, shape_of
from dsa_runtime.cost.precision import PRECISIONS
from dsa_runtime.cost.roofline import latency
from dsa_runtime.cost.stages import commit_cost, decode_cost, step_cost
from dsa_runtime.cost.tick import tick_time
from dsa_runtime.errors import WorldError
from dsa_runtime.frame_cache import FrameCache
from dsa_runtime.package import open_package

BF16, FP8, FP32 = (PRECISIONS[name] for name in ("bf16", "fp8", "fp32"))
WAN, WORLD = find_shape("wan-1.3b"), find_shape("defend-the-line")
H100 = DEVICES["h100-sxm"]


def test_published_count_of_parameters() -> None:
    assert WAN.parameters == 1_418_996_800  # Wan2.1-T2V-1.3B's checkpoint


def test_the_slowest_of_operations_and_bytes_decides() -> None:
    device = Device("round", {"bf16": 1e12, "fp8": 2e12}, 1e9, 1e9, 10.0, "")
    efficiency = Efficiency("round", linear=0.5, attention=0.25, convolution=1.0, bandwidth=0.1)
    linear = Cost("a", "linear", 1e9, 2e3, 3e3, 4e3, 2)  # 2 ms of operations, .09 ms of bytes
    attention = Cost("b", "attention", 1e9, 0, 0, 0, 1)  # 4 ms, and never in 8 bits
    bytes_only = Cost("c", "none", 0, 0, 0, 7e5, 1)  # 7 ms
    found = latency([linear, attention, bytes_only], device, BF16, efficiency)
    assert dataclasses.astuple(found) == pytest.approx((6.0, 7.0, 0.04))
    assert latency([linear, attention], device, FP8, efficiency).compute_ms == pytest.approx(5.0)


def test_the_fit_explains_the_published_rates_and_foretells_the_adaptive_one() -> None:
    """Two numbers, a fixed part and one per step, are the model's own shape."""
    found = published.fit()
    for steps, rate in published.FPS.items():
        assert found.fps(steps) == pytest.approx(rate, rel=0.025)
    assert found.fps(published.ADAPTIVE_STEPS) == pytest.approx(published.ADAPTIVE_FPS, rel=0.02)
    shares = published.implied(found)
    assert 0.25 < shares.step < 0.35
    assert 0.1 < shares.decode < 0.25
    again = Efficiency("again", shares.step, shares.step, shares.decode, 1.0)
    for steps, rate in published.FPS.items():  # operation counts and efficiencies give the rates back
        assert published.predicted_fps(steps, again) == pytest.approx(rate, rel=0.12)


@pytest.mark.parametrize("shape", [WAN, WORLD], ids=lambda shape: str(shape.name))
def test_work_follows_the_batch_and_the_window(shape: object) -> None:
    assert isinstance(shape, type(WAN))
    one, two = (total(step_cost(shape, BF16, batch=n)) for n in (1, 2))
    assert two.flops == 2 * one.flops and two.cache_bytes == 2 * one.cache_bytes
    assert two.weight_bytes == one.weight_bytes
    empty, half, full = (total(step_cost(shape, BF16, filled=n)) for n in (0, shape.window // 2, shape.window))
    assert half.flops - empty.flops == pytest.approx((full.flops - empty.flops) / 2)
    assert total(commit_cost(shape, BF16)).flops < full.flops
    assert total(step_cost(shape, FP8)).weight_bytes == one.weight_bytes / 2
    assert total(step_cost(shape, FP32)).cache_bytes == 2 * one.cache_bytes


def test_memory_of_a_session_is_what_the_runtime_allocates() -> None:
    package = open_package("defend-the-line")
    cache = FrameCache(package.spec.cache, capacity=1)
    found = memory_of(WORLD, WORLD.decoders[0], FP32)
    assert found.cache == (package.spec.cache.window + 1) * cache.slot_bytes
    assert found.of(3) == found.weights + 3 * found.per_session


@pytest.mark.parametrize(
    ("shape", "device", "limit"),
    [
        (WAN, H100, "device"),
        (WAN, dataclasses.replace(H100, memory=12e9), "memory"),
        (WORLD, H100, "host"),
        (WORLD, dataclasses.replace(H100, memory=1e9), "host"),
    ],
)
def test_capacity_is_the_largest_batch_that_fits(shape: object, device: Device, limit: str) -> None:
    assert isinstance(shape, type(WAN))
    decoder, steps = shape.decoders[-1], 2.0
    found = capacity(shape, decoder, device, BF16, USUAL, steps)

    def fits(sessions: int) -> bool:
        time = tick_time(shape, decoder, device, BF16, USUAL, batch=sessions)
        room = memory_of(shape, decoder, BF16).of(sessions) <= USABLE_MEMORY * device.memory
        return time.period_ms(steps) + sessions * HOST_MS <= shape.period_ms and room

    assert found.sessions >= 1 and fits(found.sessions) and not fits(found.sessions + 1)
    assert found.limit == limit
    assert found.devices(found.sessions * 2 + 1) == 3
    assert found.session_hour(3.0) == pytest.approx(3.0 / found.sessions)


def test_a_device_that_is_too_slow_keeps_no_session() -> None:
    found = capacity(WAN, WAN.decoders[0], DEVICES["rtx-4090"], BF16, LOW, 4)
    assert (found.sessions, found.limit) == (0, "device")
    assert found.devices(1000) is None and found.session_hour(1.0) is None
    assert found.tick_ms > WAN.period_ms


def test_better_assumptions_are_faster_and_none_beats_the_roofline() -> None:
    for costs in (step_cost(WAN, BF16), decode_cost(WAN.decoders[0], BF16)):
        times = [latency(costs, H100, BF16, each).ms for each in (LOW, USUAL, HIGH, PEAK)]
        assert times == sorted(times, reverse=True)


def test_a_package_of_others_has_no_known_shape(tiny_world: object) -> None:
    spec = tiny_world.spec  # type: ignore[attr-defined]
    assert isinstance(spec, WorldSpec)
    with pytest.raises(WorldError, match=r"weights\.bin: too small"):
        shape_of(spec)
