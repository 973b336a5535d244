"""`dsa export`: turn a recording into a film (.mp4, .gif), a table of its ticks (.csv, .parquet) or a Rerun log (.rrd).

A recording holds decisions, not pictures, so the world draws it again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import add_json, add_world, positive
from .result import Result

if TYPE_CHECKING:
    from ..export import Exported

HELP = "turn a recording into a film (.mp4, .gif), a table (.csv, .parquet) or a Rerun log (.rrd)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recording", type=Path, metavar="RECORDING", help="as `dsa record` writes it")
    parser.add_argument("out", type=Path, metavar="OUT", help="its suffix says the format")
    add_world(parser)
    parser.add_argument(
        "--plain", action="store_true", help="films: no steps, confidence and latency under the picture"
    )
    parser.add_argument(
        "--scale", type=positive, metavar="N", help="films: pixels per pixel of the world (default: 384 in all, about)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads per graph (default: one per usable core)")
    add_json(parser)


def run(options: argparse.Namespace) -> Result:
    from ..export import check, export
    from ..recording import Recording
    from ..world import load_world
    from .record import progress
    from .replay import bundled_world

    check(options.out)  # before the work
    options.out.parent.mkdir(parents=True, exist_ok=True)
    recording = Recording.load(options.recording)
    # The recorded form where it can be had: then the frames are the recorded ones. For looking at, any will do.
    form = "plain" if recording.form == "plain" else "auto"
    with (
        load_world(options.world or bundled_world(recording), threads=options.threads, form=form) as world,
        progress(len(recording.decisions), "writing") as bar,
    ):
        exported = export(world, recording, options.out, plain=options.plain, scale=options.scale, progress=bar.update)
    document = _document(options, recording.world, exported)
    return Result(document, _text(document))


def _document(options: argparse.Namespace, world: str, exported: Exported) -> dict[str, Any]:
    return {
        "world": world,
        "recording": str(options.recording),
        "file": str(options.out),
        "bytes": options.out.stat().st_size,
        "ticks": exported.ticks,
        "same_frames": exported.same_frames,
        "size": list(exported.size) if exported.size else None,
    }


def _text(document: dict[str, Any]) -> str:
    ticks, same = document["ticks"], document["same_frames"]
    size = f", {document['size'][0]} x {document['size'][1]}" if document["size"] else ""
    told = (
        "every frame is the recorded one, bit for bit"
        if same == ticks
        else f"{ticks - same} of the frames differ from the recorded ones; `dsa replay --verify` says why that can be"
    )
    return f"{document['file']}: {ticks} ticks{size}, {document['bytes'] / 1e6:.2f} MB\n{told}"
