"""This CPU as a device: what it reaches here and now in a matrix product and in a copy."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from .device import THIS_CPU, Device

_SIDE = 1024
_COPIED = 1 << 26
_REPEATS = 20


def measure_this_cpu() -> Device:
    """The best of some runs, with as many threads as numpy takes. Takes about a second, and means something on an idle
    machine only; float32."""
    import numpy as np

    left, right = (np.random.default_rng(seed).standard_normal((_SIDE, _SIDE), dtype=np.float32) for seed in (0, 1))
    product = np.empty_like(left)
    source = np.zeros(_COPIED, dtype=np.uint8)
    target = np.empty_like(source)
    flops = 2 * _SIDE**3 / _best_s(lambda: np.matmul(left, right, out=product))
    bandwidth = 2 * _COPIED / _best_s(lambda: np.copyto(target, source))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Device(
        THIS_CPU,
        {"fp32": flops},
        bandwidth,
        memory,
        0.0,
        "measured just now, beside whatever else ran: a product and a copy in numpy",
    )


def _best_s(run: Callable[[], object]) -> float:
    run()
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)
