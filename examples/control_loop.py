"""A control loop around a neural world: one decision per period, on time, whatever the machine does.

    python examples/control_loop.py                       # the bundled world at its own rate for 200 periods
    python examples/control_loop.py --hz 30 --periods 900

Each period: look at the newest picture, decide, step the world within what is left of the period. With
`on_miss="repeat"` a call returns in time even if no frame is ready: then the newest finished picture comes back,
`status` says so, and the loop acts on that. Nothing is ever silently late.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dsa_runtime import Diagnosis, Pacer, Session, load_world
from dsa_runtime.actions import ActionSpace, Box, Discrete

_RESERVE_MS = 2.0  # of each period, for everything that is not the world


@dataclass
class Account:
    """What became of the periods."""

    statuses: Counter[str] = field(default_factory=Counter)
    steps: list[int] = field(default_factory=list)
    worst_start_ms: float = 0.0
    """How late the latest period began."""
    oldest_picture: int = 0
    """Ticks between the newest picture and the tick that was asked for, at worst."""


def control(session: Session, seed: int, hz: float, periods: int, decide: Callable[[np.ndarray], Any]) -> Account:
    """Run the loop. `decide` turns the newest picture, `uint8[H, W, 3]`, into an action."""
    account, pacer = Account(), Pacer(1000.0 / hz)
    picture = session.reset(seed)
    for _ in range(periods):
        late_ms = pacer.wait()
        tick = session.step(decide(picture), max(pacer.period_ms - _RESERVE_MS - late_ms, 1.0))
        picture = tick.pixels
        account.statuses[tick.status] += 1
        account.steps.append(tick.steps)
        account.worst_start_ms = max(account.worst_start_ms, late_ms)
        account.oldest_picture = max(account.oldest_picture, tick.tick - tick.frame_tick)
    return account


def towards_the_light(space: ActionSpace) -> Callable[[np.ndarray], Any]:
    """A controller as simple as they come: go to the brighter side of the picture."""

    def decide(picture: np.ndarray) -> Any:
        middle = picture.shape[1] // 2
        side = "left" if picture[:, :middle].mean() > picture[:, middle:].mean() else "right"
        if isinstance(space, Discrete):
            return space.names.index(side) if side in space.names else 0
        if isinstance(space, Box):
            return space.low if side == "left" else space.high
        return [int(side in name) for name in space.names]

    return decide


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", help="package folder, archive or name of a bundled world (default: the bundled one)")
    parser.add_argument("--hz", type=float, help="periods per second (default: the world's own rate)")
    parser.add_argument("--periods", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--diagnosis", metavar="FILE", help="what `dsa doctor --out FILE` measured on this machine")
    options = parser.parse_args(arguments)
    diagnosis = Diagnosis.load(options.diagnosis) if options.diagnosis else None
    with load_world(options.world) as world, world.session(on_miss="repeat", diagnosis=diagnosis) as session:
        decide = towards_the_light(world.spec.action_space)
        account = control(session, options.seed, options.hz or world.spec.frame.fps, options.periods, decide)
    for status in ("ok", "late", "repeated", "skipped"):
        print(f"{status:9} {account.statuses[status]:5}")
    made = [steps for steps in account.steps if steps]
    print(
        f"{np.mean(made) if made else 0:.2f} denoising steps per frame, {account.oldest_picture} ticks of age at worst"
    )
    print(f"a period began {account.worst_start_ms:.2f} ms late at worst")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
