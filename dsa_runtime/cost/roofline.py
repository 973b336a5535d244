"""Roofline: the time that work takes at least, if operations or bytes are all that holds it up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .cost import Cost
from .device import Device
from .efficiency import Efficiency
from .precision import Precision


@dataclass(frozen=True)
class Latency:
    """Milliseconds, by what each part of the work waits for."""

    compute_ms: float
    memory_ms: float
    launch_ms: float

    @property
    def ms(self) -> float:
        return self.compute_ms + self.memory_ms + self.launch_ms


def latency(costs: Iterable[Cost], device: Device, precision: Precision, efficiency: Efficiency) -> Latency:
    """Every part takes as long as its operations or its bytes, whichever is longer, and each kernel a launch."""
    compute = memory = launch = 0.0
    for cost in costs:
        peak = device.flops[precision.linear if cost.arithmetic == "linear" else precision.other]
        computing = cost.flops / (peak * efficiency.of(cost.arithmetic))
        moving = cost.bytes / (device.bandwidth * efficiency.bandwidth)
        if computing > moving:
            compute += computing
        else:
            memory += moving
        launch += cost.kernels * device.launch_us * 1e-6
    return Latency(1e3 * compute, 1e3 * memory, 1e3 * launch)


def latency_ms(costs: Iterable[Cost], device: Device, precision: Precision, efficiency: Efficiency) -> float:
    """The sum of `latency`."""
    return latency(costs, device, precision, efficiency).ms
