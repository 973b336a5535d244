"""`convert`: recordings made elsewhere as a dataset, a contact sheet and a ready recipe."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from ..contact_sheet import write_contact_sheet
from ..recipe import Recipe, check_new, next_steps, world_name
from ..size import parse_size
from .columns import BOX, DISCRETE, MULTI_BINARY, ColumnChoice
from .source import Recordings
from .writer import Conversion, convert

HELP = "turn videos with actions, a Minari or a LeRobot dataset into one to train on"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    mp4 = kinds.add_parser("mp4", help="a folder of NAME.mp4, each with NAME.csv: one row of actions per frame")
    mp4.add_argument("source", type=Path, metavar="FOLDER")
    mp4.add_argument("--space", choices=(DISCRETE, MULTI_BINARY, BOX), help="default: what the columns look like")
    minari = kinds.add_parser("minari", help="a local Minari dataset with pictures, or whose environment renders")
    minari.add_argument("source", metavar="DATASET_ID", help="or its folder")
    minari.add_argument("--fps", type=float, help="if the dataset's environment does not say it")
    lerobot = kinds.add_parser("lerobot", help="a LeRobot dataset (versions 2 and 3) on disk")
    lerobot.add_argument("source", metavar="FOLDER", help="or an id whose copy lies in LeRobot's cache")
    for kind in (minari, lerobot):
        kind.add_argument("--camera", metavar="KEY", help="whose pictures, where there are several")
    for kind in (mp4, lerobot):
        kind.add_argument("--columns", type=lambda text: tuple(text.split(",")), default=(), help="of actions to keep")
        kind.add_argument("--low", type=float, help="bounds of continuous actions (default: the least found)")
        kind.add_argument("--high", type=float, help="(default: the greatest found)")
    for kind in (mp4, minari, lerobot):
        kind.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="of the dataset: data/NAME")
        kind.add_argument("--config", type=Path, metavar="FILE", help="recipe to write (default: configs/NAME.toml)")
        kind.add_argument("--name", help="of the world (default: the folder's)")
        kind.add_argument("--minutes", type=float, default=30.0, help="of training that the recipe plans (%(default)s)")
        kind.add_argument("--size", type=parse_size, default=(64, 64), metavar="WxH", help="of the frame (64x64)")
        kind.add_argument("--every", type=int, default=1, metavar="N", help="keep one picture in N (%(default)s)")
        kind.add_argument("--licence", help="of the pictures (default: what the dataset says, else unknown)")


def run(options: argparse.Namespace) -> int:
    """Convert, and write the recipe. Nothing is left of a conversion that fails."""
    name = world_name(options.name or options.out.name)
    config_path = options.config or Path("configs") / f"{name}.toml"
    check_new(config_path, options.minutes)
    height, width = options.size
    target = Conversion(name, options.out, height, width, options.every)
    recordings = _read(options)
    licence = options.licence or recordings.licence or "unknown"
    dataset = convert(recordings, replace(target, licence=licence))
    sheet = options.out / "train.png"
    write_contact_sheet(dataset, sheet)
    spec = dataset.spec
    description = f"A neural world learned from {recordings.origin}."
    Recipe(name, options.out, description, spec.frame, spec.action_space, options.minutes, None).write(config_path)
    for split, facts in spec.splits.items():
        print(f"{split}: {facts.frames} pictures in {facts.episodes} files")
    print(next_steps(name, options.out, sheet, config_path, options.minutes, licence))
    return 0


def _read(options: argparse.Namespace) -> Recordings:
    """Each reader is imported for its own kind only: they need different libraries."""
    if options.kind == "minari":
        from .from_minari import minari_recordings

        return minari_recordings(options.source, options.camera, options.fps)
    space = options.space if options.kind == "mp4" else None
    choice = ColumnChoice(space, options.columns, options.low, options.high)
    if options.kind == "mp4":
        from .from_mp4 import mp4_recordings

        return mp4_recordings(options.source, choice)
    from .from_lerobot import lerobot_recordings

    return lerobot_recordings(options.source, options.camera, choice)
