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
    confidence = commands.add_parser(
        "confidence", help="give a checkpoint of Wan2.1 or Self-Forcing a confidence head; its own weights stay"
    )
    _confidence_arguments(confidence)
    checkpoint = commands.add_parser(
        "package-checkpoint", help="write the world package of a checkpoint that has a confidence head"
    )
    _checkpoint_arguments(checkpoint)
    small = commands.add_parser("small-decoder", help="distil a light decoder from Wan2.1's autoencoder; resumes")
    _small_decoder_arguments(small)
    branches = {
        train: "train a branch with another seed on the base run's autoencoder, teacher and few-step start",
        package: "the branch with this seed (default: the base run)",
        verify: "the branch with this seed (default: the base run)",
    }
    for command, words in branches.items():
        command.add_argument("--seed", type=int, default=None, metavar="S", help=words)
    return top


def _confidence_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("checkpoint", type=Path, help="file or folder; the head is written beside it")
    command.add_argument("--prompts", type=Path, help="text embeddings [N, L, 4096], one array in .safetensors or .npz")
    command.add_argument("--weights", help="generator_ema or generator (default: the average, if the file has one)")
    command.add_argument("--levels", help="noise levels of the steps, 1,0.9375,... (default: Self-Forcing's four)")
    command.add_argument("--height", type=int, default=480, help="of the pictures (default: 480)")
    command.add_argument("--width", type=int, default=832, help="of the pictures (default: 832)")
    command.add_argument("--chunk", type=int, default=3, help="latent frames of a tick (default: 3)")
    command.add_argument("--window", type=int, default=6, help="chunks that a chunk looks back at (default: 6)")
    command.add_argument("--rollouts", type=int, help="self-rollouts to learn from (default: 64)")
    command.add_argument("--heldout-rollouts", type=int, help="to calibrate and to check on (default: 32)")
    command.add_argument("--chunks", type=int, help="ticks of a rollout (default: 7)")
    command.add_argument("--batch", type=int, help="rollouts played at once (default: 1)")
    command.add_argument("--steps", type=int, help="training steps of the head (default: 800)")
    command.add_argument("--target-steps", type=float, help="mean steps of the default threshold (default: 2)")
    command.add_argument("--seed", type=int, help="of noise and head (default: 0)")
    command.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the large matrices")
    command.add_argument("--device", default=None, help="torch device (default: cuda if there is one, else cpu)")


def _checkpoint_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("checkpoint", type=Path, help="file or folder, with what `confidence` wrote beside it")
    command.add_argument("folder", type=Path, help="folder to write; an older package there is replaced")
    command.add_argument(
        "--decoder",
        type=Path,
        required=True,
        metavar="FILE",
        help="a small decoder, `small_decoder.safetensors`; or Wan2.1_VAE.pth, or diffusers' folder `vae`",
    )
    command.add_argument("--prompts", type=Path, help="text embeddings [N, L, 4096], one array in .safetensors or .npz")
    command.add_argument("--texts", type=Path, help="what the prompts say, a line each (default: 'prompt 1', ...)")
    command.add_argument("--name", help="of the world (default: that of the checkpoint)")
    command.add_argument("--world-version", default="0.1.0", help="default: 0.1.0")
    command.add_argument("--licence", required=True, help="of the weights, for example Apache-2.0")
    command.add_argument("--description", default="", help="a line about it")
    command.add_argument("--fps", type=float, default=16.0, help="pictures a second (default: 16, as Wan2.1)")
    command.add_argument("--weights", help="as given to `confidence`")
    command.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="as given to `confidence`")


def _small_decoder_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("vae", type=Path, metavar="VAE_CHECKPOINT", help="Wan2.1_VAE.pth, or diffusers' folder `vae`")
    command.add_argument(
        "--latents",
        type=Path,
        required=True,
        metavar="FILE",
        help="normalised latents [clips, 16, frames, height, width], each clip from its video's start: one array in"
        " .safetensors or .npz",
    )
    command.add_argument("--out", type=Path, default=Path("runs/small-decoder"), help="default: runs/small-decoder")
    budget = command.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=float, help="of training (default: 60)")
    budget.add_argument("--steps", type=int, help="of training, in place of minutes")
    command.add_argument("--perceptual", choices=("lpips", "none"), default="lpips", help="in the loss beside L1")
    command.add_argument("--device", default=None, help="torch device (default: cuda if there is one, else cpu)")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; bad input is one line on stderr and exit status 2."""
    options = parser().parse_args(arguments)
    from exporters import commands

    try:
        return int(getattr(commands, options.command.replace("-", "_"))(options))
    except (ValueError, OSError) as error:
        print(f"exporters {options.command}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
