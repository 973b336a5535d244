"""Timers: how late this machine wakes a thread that waits.

Runs on the standard library alone: the measurement under SCHED_FIFO starts this file in a process of its own,
because a process that is allowed in need not be allowed out again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable

RATE_HZ = 60
FIFO_PRIORITY = 50
_START_S = 20.0


def measure(periods: int, progress: Callable[[], None] = lambda: None) -> dict[str, list[float]]:
    """Milliseconds by which waits ended late, at 60 periods a second: `sleep` and `lock`, one of each a period."""
    held = threading.Lock()
    held.acquire()
    late_ms: dict[str, list[float]] = {"sleep": [], "lock": []}
    waits: dict[str, Callable[[float], object]] = {
        "sleep": time.sleep,
        "lock": lambda seconds: held.acquire(timeout=seconds),
    }
    due = time.perf_counter()
    for _ in range(periods):
        for name, wait in waits.items():
            # From now where the last one ended late: a wait that is over before it begins measures nothing.
            due = max(due, time.perf_counter()) + 0.5 / RATE_HZ
            wait(due - time.perf_counter())
            late_ms[name].append(max(time.perf_counter() - due, 0.0) * 1e3)
        progress()
    return late_ms


def measure_fifo(periods: int) -> dict[str, list[float]] | None:
    """The same in a child process under SCHED_FIFO; None where that is not permitted or does not exist."""
    if not hasattr(os, "sched_setscheduler"):
        return None
    try:
        child = subprocess.run(
            [sys.executable, "-I", "-S", __file__, str(periods)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_START_S + 10 * periods / RATE_HZ,
            check=True,
        )
        late_ms: dict[str, list[float]] = json.loads(child.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return late_ms


if __name__ == "__main__":
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(FIFO_PRIORITY))
    print(json.dumps(measure(int(sys.argv[1]))))
