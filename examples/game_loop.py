"""A game loop around a neural world: the world ticks at its own rate, the screen is drawn at 60 Hz.

    python examples/game_loop.py                              # ten seconds without a window; prints what was kept
    python examples/game_loop.py --frames 120 --out loop.gif  # and what was shown

A world of 17.5 ticks a second is too slow to be looked at tick by tick, and its tick takes longer than a frame of the
screen. So it ticks on a thread of its own, one tick per period and never in a burst, and each frame of the screen shows
a blend of the two newest pictures. What is seen is one tick old, which is the price of showing no jumps.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from dsa_runtime import Pacer, Session, load_world
from dsa_runtime.commands.player import ScriptedPlayer

SCREEN_HZ = 60.0


@dataclass(frozen=True)
class Shown:
    """The two newest pictures, `uint8[H, W, 3]`, and when the newer one came, in seconds of `time.perf_counter`."""

    before: np.ndarray
    after: np.ndarray
    since_s: float

    def blend(self, now_s: float, period_s: float) -> np.ndarray:
        """What to show now: on the way from one picture to the other."""
        share = min(max((now_s - self.since_s) / period_s, 0.0), 1.0)
        mixed = (1.0 - share) * self.before.astype(np.float32) + share * self.after.astype(np.float32)
        return np.round(mixed).astype(np.uint8)


class WorldThread:
    """Ticks a session at its native rate. The game reads `shown` and writes `action`, both at any time."""

    def __init__(self, session: Session, seed: int, action: Any) -> None:
        picture = session.reset(seed)
        self.action = action
        self.shown = Shown(picture, picture, time.perf_counter())
        self.ticks = self.late = 0
        self.period_ms = session.spec.frame.period_ms
        self._session = session
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="world")

    def __enter__(self) -> WorldThread:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        pacer = Pacer(self.period_ms)
        while not self._stop.is_set():
            pacer.wait()
            tick = self._session.step(self.action, self.period_ms)
            # One assignment: the game sees the old pair or the new one, never half of each.
            self.shown = Shown(self.shown.after, tick.pixels, time.perf_counter())
            self.ticks += 1
            self.late += tick.status != "ok"


def run(
    session: Session, seed: int, frames: int, read_input: Callable[[int], Any], show: Callable[[np.ndarray], object]
) -> WorldThread:
    """The game: `frames` frames of the screen. `read_input(tick)` gives the player's action, `show` draws a picture."""
    with WorldThread(session, seed, read_input(0)) as world:
        screen = Pacer(1000.0 / SCREEN_HZ)
        for _ in range(frames):
            screen.wait()
            world.action = read_input(world.ticks)
            show(world.shown.blend(time.perf_counter(), world.period_ms / 1000.0))
    return world


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", help="package folder, archive or name of a bundled world (default: the bundled one)")
    parser.add_argument("--frames", type=int, default=600, help="of the screen (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", metavar="GIF", help="keep what was shown")
    options = parser.parse_args(arguments)
    seen: list[Image.Image] = []
    with load_world(options.world) as world, world.session() as session:
        player = ScriptedPlayer(world.spec.action_space)  # a game would read the keyboard here
        started = time.perf_counter()
        kept = run(session, options.seed, options.frames, player.action, lambda one: seen.append(Image.fromarray(one)))
        wall_s = time.perf_counter() - started
    print(f"screen: {len(seen)} frames, {len(seen) / wall_s:.1f} Hz")
    print(f"world:  {kept.ticks} ticks, {kept.ticks / wall_s:.1f} Hz of {1000 / kept.period_ms:.1f}, {kept.late} late")
    if options.out:
        seen[0].save(options.out, save_all=True, append_images=seen[1:], duration=20, loop=0)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
