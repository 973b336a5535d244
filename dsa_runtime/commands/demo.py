"""`dsa demo`: play a world under a budget per tick, and show what that looked like and cost."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..atomic import whole_file
from .arguments import add_json, add_play, add_world, quality_document, quality_text
from .result import Result

if TYPE_CHECKING:
    from ..report.play import Play
    from ..world import World

HELP = "play the bundled world and write a film, a chart and a report"
_STAGE_NAMES = {
    "wait": "wait for the last commit", "denoise": "denoise, all steps", "denoise_step": "denoise, one step",
    "decode": "decode", "sdk": "SDK", "total": "tick, call to return", "commit": "commit, after the return",
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_world(parser)
    add_play(parser, ticks=300)
    parser.add_argument(
        "--budget-ms", type=float, default=33.0, metavar="MS", help="wall time per tick (default: %(default)g)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("dsa-demo"), help="folder for the results (default: %(default)s)"
    )
    parser.add_argument("--record", type=Path, metavar="FILE", help="also write a recording, for `dsa replay --verify`")
    add_json(parser)


def run(options: argparse.Namespace) -> Result:
    from ..report.chart import write_chart
    from ..report.film import MOST_FRAMES, write_film
    from ..world import load_world

    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)  # before the work: a folder that cannot be made should fail now
    if options.record is not None:
        options.record.parent.mkdir(parents=True, exist_ok=True)
    with load_world(options.world, threads=options.threads, form=options.form, quality=options.quality) as world:
        quality = quality_document(world, options.threshold)
        with _progress(options.ticks, "playing") as bar:
            play = play_world(
                world,
                seed=options.seed,
                ticks=options.ticks,
                budget_ms=options.budget_ms,
                threshold=options.threshold,
                record=options.record,
                progress=bar,
            )
        with _progress(min(options.ticks, MOST_FRAMES), "drawing") as bar:
            write_film(play, out / "demo.gif", bar.update)
        write_chart(play, out / "chart.png")
    document = play.summary() | {"quality": quality} | _circumstances()
    document["files"] = {"film": "demo.gif", "chart": "chart.png", "report": "report.json"}
    _write_json(out / "report.json", document)
    return Result(document, summary_text(document) + f"\n\nFilm, chart and report: {out}{os.sep}")


def play_world(
    world: World,
    *,
    seed: int,
    ticks: int,
    budget_ms: float,
    threshold: float | None,
    record: Path | None = None,
    progress: tqdm[Any] | None = None,
) -> Play:
    """Play `ticks` ticks with the scripted player, as fast as they come, and `record` them to a file if asked."""
    from ..report.film import newest_picture
    from ..report.play import Play
    from .player import ScriptedPlayer

    player = ScriptedPlayer(world.spec.action_space)
    actions = [player.action(tick) for tick in range(ticks)]
    played = []
    with world.session(seed, threshold=threshold, record=record is not None) as session:
        started = time.perf_counter()
        for action in actions:
            tick = session.step(action, budget_ms)
            played.append(newest_picture(tick))
            if progress is not None:  # between the ticks, in this thread: drawing it disturbs no measurement
                total_ms = tick.latency_ms["total"]
                status = f"{tick.steps} steps, confidence {tick.confidence:.2f}, {total_ms:4.1f} ms"
                progress.set_postfix_str(status, refresh=False)
                progress.update()
        wall_s = time.perf_counter() - started
        commit = session.latency.summary().get("commit")
        if record is not None and session.recording is not None:
            session.recording.save(record)
    words = tuple(player.describe(tick) for tick in range(ticks))
    return Play(world.spec, seed, budget_ms, words, tuple(played), wall_s, commit)


def summary_text(document: dict[str, Any]) -> str:
    """The report for reading."""
    from ..report.table import bar, table

    steps, late, confidence = document["steps"], document["late"], document["confidence"]
    ticks, budget_ms = document["ticks"], document["budget_ms"]
    latency = [
        (name, *(document["latency_ms"][stage].get(key) for key in ("mean", "p50", "p99", "max")))
        for stage, name in _STAGE_NAMES.items()
        if stage in document["latency_ms"]
    ]
    histogram = [(int(k), count, f"{count / ticks:.0%}", bar(count / ticks)) for k, count in steps["histogram"].items()]
    stops = ", ".join(f"{why} {count}" for why, count in document["stopped_by"].items())
    reached = confidence["reached_threshold"]
    facts = [
        ("speed", f"{document['ticks_per_s']:.1f} ticks/s over {ticks} ticks"),
        ("steps per tick", f"{steps['mean']:.2f} of {steps['schedule']} on average; stopped by: {stops}"),
        ("confidence", f"mean {confidence['mean']:.2f}, median {confidence['p50']:.2f}"),
    ]
    if reached is not None:
        facts[-1] = (facts[-1][0], facts[-1][1] + f"; {reached:.0%} of the ticks reached the threshold")
    if document["quality"] is not None:
        facts.append(("quality", quality_text(document["quality"])))
    if budget_ms is not None:
        worst = f", the worst by {-late['worst_slack_ms']:.1f} ms" if late["ticks"] else ""
        facts.append(("budget", f"{budget_ms:g} ms; {late['ticks']} of {ticks} ticks were late{worst}"))
    width = max(len(name) for name, _ in facts)
    return "\n\n".join(
        [
            f"{document['world']['name']} {document['world']['version']}, seed {document['seed']}",
            table(("latency, ms", "mean", "p50", "p99", "max"), latency),
            table(("steps", "ticks", "share", ""), histogram),
            "\n".join(f"{name.ljust(width)}  {text}" for name, text in facts),
        ]
    )


def _circumstances() -> dict[str, Any]:
    from .. import __version__
    from .machine import describe_machine

    return {"dsa_runtime": __version__, "machine": describe_machine()}


def _write_json(path: Path, document: dict[str, Any]) -> None:
    with whole_file(path) as partial:
        partial.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _progress(total: int, description: str) -> tqdm[Any]:
    """On stderr, and only where that is a terminal."""
    tqdm.monitor_interval = 0  # its watching thread would run beside the ticks that are measured
    return tqdm(total=total, desc=description, unit="tick", disable=None, leave=False)
