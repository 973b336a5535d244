"""`python -m exporters`: train a world, package it, verify the package, bring an older package up to date."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """The command line; each command imports what it needs only when it runs."""
    top = argparse.ArgumentParser(prog="python -m exporters", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="run all stages of a recipe; goes on where it was stopped")
    train.add_argument("config", type=Path, help="TOML recipe, for example exporters/configs/defend_the_line.toml")
    train.add_argument("--runs", type=Path, default=Path("runs"), help="folder of checkpoints (default: runs)")
    train.add_argument("--device", default=None, help="torch device (default: cuda if there is one, else cpu)")
    train.add_argument("--until", default=None, help="last stage to run (default: all)")
    train.add_argument(
        "--from",
        dest="start",
        type=Path,
        default=None,
        metavar="WORLD",
        help="begin a run with the models of this world package",
    )
    train.add_argument("--package", type=Path, default=None, help="folder to write the finished world package to")
    train.add_argument(
        "--shard",
        action="store_true",
        help="under torchrun: spread the generators' weights over the processes (FSDP2), for models too large for one",
    )
    package = commands.add_parser("package", help="write the world package of a finished run")
    package.add_argument("config", type=Path)
    package.add_argument("folder", type=Path, help="folder to write; an older package there is replaced")
    package.add_argument("--runs", type=Path, default=Path("runs"))
    verify = commands.add_parser("verify", help="compare a package in onnxruntime, in every form, with torch")
    verify.add_argument("config", type=Path)
    verify.add_argument("package", type=Path)
    verify.add_argument("--runs", type=Path, default=Path("runs"))
    verify.add_argument("--frames", type=int, default=1000)
    verify.add_argument("--json", action="store_true")
    reexport = commands.add_parser("reexport", help="bring a package's graphs up to date; needs no checkpoint")
    reexport.add_argument("config", type=Path, help="the package's recipe, for the shape of its generator")
    reexport.add_argument("package", type=Path, help="folder of the package; its weights stay as they are")
    branches = {
        train: "train a branch with another seed on the base run's autoencoder, teacher and few-step start",
        package: "the branch with this seed (default: the base run)",
        verify: "the branch with this seed (default: the base run)",
    }
    for command, words in branches.items():
        command.add_argument("--seed", type=int, default=None, metavar="S", help=words)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one command; bad input is one line on stderr and exit status 2."""
    options = parser().parse_args(arguments)
    from exporters import commands

    try:
        return int(getattr(commands, options.command)(options))
    except (ValueError, OSError) as error:
        print(f"exporters {options.command}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
