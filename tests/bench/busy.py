"""Busy: other work on the machine while something is measured."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

# The parent may run in a real-time class and die by any signal: neither is passed on to what it started.
_SPIN = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
if hasattr(os, "sched_setscheduler"):
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
parent = int(sys.argv[1])
print("busy", flush=True)
while os.getppid() == parent:
    for _ in range(100_000):
        pass
"""


@contextmanager
def busy(processes: int) -> Iterator[tuple[int, ...]]:
    """Keep that many processes busy, at this process's niceness; yields their ids once all of them are.

    They are ended and reaped on every way out of the block, and end by themselves within milliseconds if this
    process dies without getting there (POSIX: they look at who their parent is).
    """
    with ExitStack() as stack:
        started = []
        for _ in range(processes):
            command = [sys.executable, "-I", "-S", "-c", _SPIN, str(os.getpid())]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
            stack.enter_context(process)  # leaving waits for it
            stack.callback(process.kill)  # called first
            started.append(process)
        for process in started:
            assert process.stdout is not None
            if process.stdout.readline().strip() != b"busy":
                raise RuntimeError(f"process {process.pid} did not start")
        yield tuple(process.pid for process in started)
