"""`dsa bench`: ticks per second with a fixed number of denoising steps and with the world's own choice.

With `--shape` nothing is measured: the time, the memory and the sessions of a shape on a device follow from its sizes,
see docs/scale.md.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from . import bench_shape
from .arguments import add_json, add_play, add_world, quality_document, quality_text
from .result import Result

if TYPE_CHECKING:
    from ..session import Session
    from ..tick import Tick
    from ..world import World

HELP = "measure ticks per second and latency, fixed 1..K steps and adaptive; --shape predicts them"
_ROUNDS = 5
_WARM_UP_TICKS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_world(parser)
    add_play(parser, ticks=200)
    bench_shape.add_arguments(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> Result:
    if options.shape is not None:
        return bench_shape.run(options)
    bench_shape.refuse(options)
    from ..world import load_world

    with load_world(
        options.world,
        threads=options.threads,
        form=options.form,
        quality=options.quality,
        device=options.device or "cpu",
    ) as world:
        document = bench_world(world, seed=options.seed, ticks=options.ticks, threshold=options.threshold)
    return Result(document, bench_text(document))


@dataclass
class _Lane:
    """One policy on its own session, and what it measured."""

    name: str
    session: Session
    steps: int | None
    """Denoising steps of every tick; None for the world's choice."""
    ticks: list[Tick] = field(default_factory=list)
    wall_s: float = 0.0


def bench_world(
    world: World, *, seed: int, ticks: int, threshold: float | None, progress: bool = True
) -> dict[str, Any]:
    """Measure every policy over the same actions, without a budget. The result holds plain JSON values.

    The policies take turns in a few rounds, so that a machine that gets slower or busier does so for all.
    """
    from ..report.play import distribution
    from .machine import describe_machine
    from .player import ScriptedPlayer

    player = ScriptedPlayer(world.spec.action_space)
    actions = [player.action(tick) for tick in range(ticks + _WARM_UP_TICKS)]
    schedule = world.spec.schedule.steps
    with ExitStack() as stack:
        lanes = [
            _Lane(f"fixed {k}" if k else "adaptive", stack.enter_context(world.session(seed, threshold=threshold)), k)
            for k in (*range(1, schedule + 1), None)
        ]  # fmt: skip
        for lane in lanes:
            for action in actions[:_WARM_UP_TICKS]:
                lane.session.step(action, math.inf, steps=lane.steps)
        tqdm.monitor_interval = 0
        bar = stack.enter_context(
            tqdm(total=len(lanes) * ticks, unit="tick", disable=None if progress else True, leave=False)
        )
        edges = [_WARM_UP_TICKS + ticks * i // _ROUNDS for i in range(_ROUNDS + 1)]
        for start, end in itertools.pairwise(edges):
            for lane in lanes:
                bar.set_description(lane.name, refresh=False)
                started = time.perf_counter()
                for action in actions[start:end]:
                    lane.ticks.append(lane.session.step(action, math.inf, steps=lane.steps))
                lane.wall_s += time.perf_counter() - started
                bar.update(end - start)
    return {
        "world": {"name": world.spec.name, "version": world.spec.version},
        "machine": describe_machine(),
        "seed": seed,
        "ticks": ticks,
        "threshold": lanes[-1].ticks[0].threshold,
        "quality": quality_document(world, threshold),
        "policies": [
            {
                "policy": lane.name,
                "mean_steps": sum(tick.steps for tick in lane.ticks) / ticks,
                "ticks_per_s": ticks / lane.wall_s,
                "latency_ms": distribution([tick.latency_ms["total"] for tick in lane.ticks]),
            }
            for lane in lanes
        ],
    }


def bench_text(document: dict[str, Any]) -> str:
    """The measurement for reading."""
    from ..report.table import table

    machine, threshold = document["machine"], document["threshold"]
    rows = [
        (
            entry["policy"],
            entry["mean_steps"],
            entry["ticks_per_s"],
            *(entry["latency_ms"][key] for key in ("mean", "p50", "p99", "max")),
        )
        for entry in document["policies"]
    ]
    header = ("policy", "mean steps", "ticks/s", "mean ms", "p50 ms", "p99 ms", "max ms")
    adaptive = "" if threshold is None else f", adaptive at threshold {threshold:.2f}"
    promise = "" if document["quality"] is None else f"adaptive: {quality_text(document['quality'])}\n"
    return (
        f"{document['world']['name']} {document['world']['version']}, {document['ticks']} ticks each{adaptive}\n"
        f"{machine['cpu']}, usable cores: {machine['cores']}, onnxruntime {machine['onnxruntime']}\n{promise}\n"
        + table(header, rows)
    )
