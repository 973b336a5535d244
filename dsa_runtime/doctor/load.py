"""Load: processes that keep the machine busy while something is measured beside them."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from ..errors import EngineError

# Ends when its standard input does, so also when the parent is killed and has no chance to end it. Under a
# real-time class it would take the machine away from everything else, so it leaves the one it inherits.
_SPIN = """
import os, signal, sys, threading
signal.signal(signal.SIGINT, signal.SIG_IGN)
if hasattr(os, "sched_setscheduler"):
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()
os.write(1, b"!")
while True:
    pass
"""


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[tuple[int, ...]]:
    """Keep `count` processes spinning inside the `with` block, which gets their ids; gone after it, whatever
    happens."""
    with contextlib.ExitStack() as stack:
        processes = []
        for _ in range(count):
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _SPIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            stack.callback(_end, process)
            processes.append(process)
        for process in processes:
            assert process.stdout is not None
            if process.stdout.read(1) != b"!":
                raise EngineError("a busy process to measure beside did not start; leave it out with --no-load")
        yield tuple(process.pid for process in processes)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
