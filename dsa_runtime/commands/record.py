"""`dsa record`: play a world and keep what was asked, decided and measured, for `dsa export` and `dsa replay`."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from .arguments import (
    add_device,
    add_json,
    add_play,
    add_positional_world,
    add_prompt,
    check_prompt,
    quality_document,
    quality_text,
)
from .policies import NAMES, actions_of, rows_of_script
from .result import Result

if TYPE_CHECKING:
    from ..recording import Recording
    from ..world import World

HELP = "play a world and write a recording, for `dsa export` and `dsa replay`"


class _Unasked(int):
    """The default number of ticks, told apart from a number that was asked for: a script has its own length."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_positional_world(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.dsarec", help="where the recording goes")
    add_play(parser, ticks=_Unasked(300))
    parser.add_argument(
        "--budget-ms", type=float, metavar="MS", help="wall time per tick, inf for none (default: the world's period)"
    )
    parser.add_argument(
        "--policy",
        nargs="+",
        default=["demo"],
        metavar="POLICY",
        help=f"who plays: {', '.join(NAMES)} FILE.csv with a row of actions per tick (default: demo)",
    )
    add_prompt(parser)
    add_device(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> Result:
    from ..world import load_world

    policy, ticks = options.policy, options.ticks
    if policy[0] == "script" and len(policy) == 2 and isinstance(ticks, _Unasked):
        ticks = rows_of_script(Path(policy[1]))
    options.out.parent.mkdir(parents=True, exist_ok=True)  # before the work: what cannot be made should fail now
    with load_world(
        options.world,
        threads=options.threads,
        form=options.form,
        quality=options.quality,
        device=options.device,
    ) as world:
        check_prompt(world.spec, options.prompt)
        actions = actions_of(policy, world.spec.action_space, ticks, options.seed)
        started = time.perf_counter()
        with progress(ticks, "playing") as bar:
            played = (options.seed, options.budget_ms, options.threshold, options.prompt)
            recording = record(world, actions, *played, bar)
        wall_s = time.perf_counter() - started
        recording.save(options.out)
        document = _document(recording, wall_s) | {"quality": quality_document(world, options.threshold)}
    document |= {"policy": " ".join(policy), "budget_ms": options.budget_ms, "file": str(options.out)}
    return Result(document, _text(document))


def record(
    world: World,
    actions: list[Any],
    seed: int,
    budget_ms: float | None,
    threshold: float | None,
    prompt: str | None,
    bar: tqdm[Any],
) -> Recording:
    """Play these actions as fast as they come."""
    with world.session(seed, threshold=threshold, record=True, prompt=prompt) as session:
        for action in actions:
            session.step(action, budget_ms)
            bar.update()
        recording = session.recording
    assert recording is not None
    return recording


def progress(total: int, description: str) -> tqdm[Any]:
    """On stderr, and only where that is a terminal."""
    tqdm.monitor_interval = 0  # its watching thread would run beside the ticks that are measured
    return tqdm(total=total, desc=description, unit="tick", disable=None, leave=False)


def _document(recording: Recording, wall_s: float) -> dict[str, Any]:
    decisions = recording.decisions
    steps = sum(decision.steps for decision in decisions)
    statuses = Counter(decision.played.status for decision in decisions if decision.played is not None)
    return {
        "world": {"name": recording.world, "version": recording.version},
        "seed": recording.seed,
        "ticks": len(decisions),
        "steps": {"total": steps, "mean": steps / len(decisions)},
        "status": dict(sorted(statuses.items())),
        "wall_s": wall_s,
        **({"prompt": recording.prompts[0].prompt} if recording.prompts else {}),
    }


def _text(document: dict[str, Any]) -> str:
    world, ticks, steps = document["world"], document["ticks"], document["steps"]
    statuses = ", ".join(f"{count} {status}" for status, count in document["status"].items())
    lines = [
        f"{world['name']} {world['version']}, seed {document['seed']}, policy {document['policy']}",
        f"{ticks} ticks, {steps['mean']:.2f} steps per tick, {statuses}",
        f"recording: {document['file']}",
    ]
    if "prompt" in document:
        lines.insert(1, f"prompt: {document['prompt']}")
    if document["quality"] is not None:
        lines.insert(-1, f"quality: {quality_text(document['quality'])}")
    return "\n".join(lines)
