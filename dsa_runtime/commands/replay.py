"""`dsa replay`: draw a recorded session again, and check that every frame is the recorded one."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RecordingError
from .arguments import add_json, add_world
from .result import Result

if TYPE_CHECKING:
    from ..recording import Recording
    from ..tick import Tick
    from ..world import World

HELP = "draw a recorded session again; with --verify, check that it is the same bit for bit"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="recording, as `session.recording.save` writes it")
    add_world(parser)
    parser.add_argument("--threads", type=int, metavar="N", help="threads per graph (default: one per usable core)")
    parser.add_argument(
        "--verify", action="store_true", help="compare every frame with the recording and fail at the first other one"
    )
    parser.add_argument("--film", type=Path, metavar="GIF", help="also write the first frames as a film")
    add_json(parser)


def run(options: argparse.Namespace) -> Result:
    from ..recording import Recording
    from ..replay import replay
    from ..report.film import MOST_FRAMES, newest_picture
    from ..world import load_world

    recording = Recording.load(options.file)
    if not recording.decisions:
        raise RecordingError(f"{options.file}.decisions: it holds no tick; record with `world.session(record=True)`")
    shown: list[Tick] = []
    steps = 0
    # Bit for bit needs the recorded form; for looking at it any will do.
    form = recording.form if options.verify else "auto"
    with load_world(options.world or bundled_world(recording), threads=options.threads, form=form) as world:
        started = time.perf_counter()
        for tick in replay(world, recording, verify=options.verify):
            steps += tick.steps
            if options.film and len(shown) < MOST_FRAMES:
                shown.append(newest_picture(tick))
        wall_s = time.perf_counter() - started
        if options.film:
            _write_film(world, recording, shown, wall_s, options.film)
    ticks = len(recording.decisions)
    document: dict[str, Any] = {
        "world": {"name": recording.world, "version": recording.version},
        "seed": recording.seed,
        "first_tick": recording.first_tick,
        "ticks": ticks,
        "steps": {"total": steps, "mean": steps / ticks},
        "wall_s": wall_s,
        "ticks_per_s": ticks / wall_s,
        "verified": ticks if options.verify else None,
        "film": str(options.film) if options.film else None,
    }
    return Result(document, _text(document))


def bundled_world(recording: Recording) -> str:
    """The recording's world, if it is a bundled one. A file must not say which package is loaded."""
    from ..package import bundled_worlds

    if recording.world not in bundled_worlds():
        raise RecordingError(f"world: {recording.world!r} is not a bundled world; pass its package with --world")
    return recording.world


def _write_film(world: World, recording: Recording, ticks: list[Tick], wall_s: float, path: Path) -> None:
    from ..report.film import write_film
    from ..report.play import Play
    from .player import describe

    words = (describe(world.spec.action_space, entry.action) for entry in recording.decisions[: len(ticks)])
    write_film(Play(world.spec, recording.seed, math.inf, tuple(words), tuple(ticks), wall_s, None), path)


def _text(document: dict[str, Any]) -> str:
    world, ticks, steps = document["world"], document["ticks"], document["steps"]
    lines = [
        f"{world['name']} {world['version']}, seed {document['seed']}, from tick {document['first_tick']}",
        f"{ticks} ticks, {steps['total']} steps ({steps['mean']:.2f} per tick), {document['ticks_per_s']:.1f} ticks/s",
    ]
    if document["verified"] is not None:
        lines.append(f"every frame is the recorded one, bit for bit: {document['verified']} of {ticks}")
    if document["film"] is not None:
        lines.append(f"film: {document['film']}")
    return "\n".join(lines)
