"""`python -m exporters.recording`: make a dataset, convert one, verify it, look at it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from . import record_env
from .contact_sheet import write_contact_sheet
from .conversion import command as conversion
from .dataset import Dataset
from .episode import DatasetError
from .record import RecordConfig, record


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m exporters.recording", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    make = commands.add_parser("record", help="play a recipe's world and write its dataset")
    make.add_argument("config", type=Path, help="TOML recipe, for example exporters/configs/defend_the_line.toml")
    make.add_argument("--folder", type=Path, default=None, help="default: the recipe's dataset")
    for split in RecordConfig().frames:
        make.add_argument(f"--{split}", type=int, default=None, metavar="FRAMES", help="default: the recipe's")
    make.add_argument("--episode", type=int, default=None, metavar="STEPS", help="steps per file")
    make.add_argument("--workers", type=int, default=None)
    make.add_argument("--compress", action="store_true", help="smaller files, slower to write and read")

    record_env.add_arguments(commands.add_parser("record-env", help=record_env.HELP, description=record_env.__doc__))

    conversion.add_arguments(commands.add_parser("convert", help=conversion.HELP, description=conversion.__doc__))

    check = commands.add_parser("check", help="read and validate every file, and count what is in it")
    check.add_argument("folder")

    sheet = commands.add_parser("sheet", help="write a contact sheet (PNG)")
    sheet.add_argument("folder")
    sheet.add_argument("--split", default="train")
    sheet.add_argument("--out", default=None, help="default: <folder>/<split>.png")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        if options.command == "record-env":
            return record_env.run(options)
        if options.command == "convert":
            return conversion.run(options)
        if options.command == "record":
            from ..training.config import load_config  # which needs torch

            recipe = load_config(options.config)
            _summarise(record(_chosen(recipe.recording, options), recipe.name, options.folder or recipe.dataset))
        elif options.command == "check":
            dataset = Dataset(options.folder)
            dataset.check()
            _summarise(dataset)
        else:
            dataset = Dataset(options.folder)
            out = options.out or str(dataset.folder / f"{options.split}.png")
            write_contact_sheet(dataset, out, split=options.split)
            print(out)
    except (DatasetError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _chosen(config: RecordConfig, options: argparse.Namespace) -> RecordConfig:
    """The recipe's settings with the command line's in their place."""
    asked = {split: getattr(options, split, None) for split in config.frames}
    frames = {**config.frames, **{split: count for split, count in asked.items() if count is not None}}
    return replace(
        config,
        frames=frames,
        steps_per_episode=config.steps_per_episode if options.episode is None else options.episode,
        workers=config.workers if options.workers is None else options.workers,
        compress=options.compress or config.compress,
    )


def _summarise(dataset: Dataset) -> None:
    names = dataset.spec.action_space.get("names", [])
    discrete = dataset.spec.action_space["type"] == "Discrete"
    for split, facts in dataset.spec.splits.items():
        print(f"{split}: {facts.episodes} episodes, {facts.frames} frames, seeds {facts.seeds[0]}..{facts.seeds[1]}")
        counts = np.zeros(dataset.spec.action_space.get("n", 0), dtype=np.int64)
        cuts = 0
        for episode in dataset.episodes(split):
            cuts += int(episode.cut.sum())
            if discrete:
                counts += np.bincount(episode.actions, minlength=len(counts))
        if discrete:
            shares = counts / counts.sum()
            print(
                "  "
                + ", ".join(f"{name} {share:.1%}" for name, share in zip(names, shares, strict=True))
                + f"; {cuts} cuts"
            )


if __name__ == "__main__":
    sys.exit(main())
