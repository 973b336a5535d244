"""`dsa verify`: check a world package, then run it for a moment."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import EngineError
from .arguments import add_json
from .result import Result

if TYPE_CHECKING:
    from ..world import World

HELP = "check a world package: spec, sizes, hashes, graphs, and a few ticks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="WORLD", help="package folder, .dsaworld archive or bundled name")
    add_json(parser)


def run(options: argparse.Namespace) -> Result:
    from ..form import choose_form
    from ..world import load_world

    with load_world(options.path, form="plain") as world:
        spec = world.spec
        length = f"{spec.cache.window} frames" if spec.begins_full else f"at most {spec.cache.window} ticks"
        size_mb = sum(entry.bytes for entry in spec.files.values()) / 1e6
        checks = {
            "files": f"{len(spec.files)} files, {size_mb:.1f} MB, sizes and SHA-256 as listed",
            "start contexts": f"{world.contexts} contexts of {length}",
            "plain form": _smoke(world),
        }
    choice = choose_form(spec)
    if choice.form == "op":
        with load_world(options.path, form="op") as world:
            checks["op form"] = _smoke(world)
    else:
        checks["op form"] = f"not checked: {choice.reason}"
    document: dict[str, Any] = {
        "ok": True,
        "world": {"name": spec.name, "version": spec.version},
        "checks": checks,
    }
    width = max(map(len, checks))
    lines = [
        f"{'--' if found.startswith('not checked') else 'ok'}  {name.ljust(width)}  {found}"
        for name, found in checks.items()
    ]
    return Result(document, "\n".join([f"{spec.name} {spec.version} is sound", *lines]))


def _smoke(world: World) -> str:
    """Play from the first and the last context with every number of steps, twice; both must be the same."""
    from .player import ScriptedPlayer

    spec, player = world.spec, ScriptedPlayer(world.spec.action_space)
    schedule = range(1, spec.schedule.steps + 1)
    ticks = 0
    with world.session(0) as session:
        for seed in sorted({0, world.contexts - 1}):
            runs = []
            for _ in range(2):
                session.reset(seed)
                runs.append([session.step(player.action(k), math.inf, steps=k) for k in schedule])
            for first, second in zip(*runs, strict=True):
                if not np.array_equal(first.frames, second.frames) or first.confidence != second.confidence:
                    raise EngineError(f"seed {seed}, tick {first.tick}: played twice, two different frames")
                if not 0 <= first.confidence <= 1:
                    raise EngineError(f"seed {seed}, tick {first.tick}: confidence {first.confidence}")
            ticks += sum(map(len, runs))
    return f"graphs as the spec says; {ticks} ticks of 1..{spec.schedule.steps} steps, each played twice, same frame"
