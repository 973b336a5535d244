"""What `capi_loop.c` does for `calls`, with `Session.step`: the same lines in, the same series out.

python -m tests.bench.capi_python WORLD THREADS
"""

from __future__ import annotations

import math
import sys
from time import perf_counter, sleep

from dsa_runtime import Session, load_world
from dsa_runtime.commands.player import ScriptedPlayer


def calls(session: Session, ticks: int, pause_us: float) -> None:
    """Steps, `pause_us` apart: what each took, and the part of it outside the step's own clock."""
    action, call, overhead = ScriptedPlayer(session.spec.action_space).action, [0.0] * ticks, [0.0] * ticks
    for number in range(ticks):
        if pause_us:
            sleep(pause_us * 1e-6)
        chosen, began = action(number), perf_counter()
        tick = session.step(chosen, math.inf)
        call[number] = (perf_counter() - began) * 1e6
        overhead[number] = call[number] - tick.latency_ms["total"] * 1e3
    print("call", *call)
    print("overhead", *overhead)


def main() -> None:
    with load_world(sys.argv[1] or None, threads=int(sys.argv[2])) as world, world.session(0) as session:
        session.step(ScriptedPlayer(session.spec.action_space).action(0), math.inf)
        print("start", flush=True)
        for line in sys.stdin:
            _, ticks, pause_us = line.split()
            calls(session, int(ticks), float(pause_us))
            print("done", flush=True)


if __name__ == "__main__":
    main()
