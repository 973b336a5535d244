"""`python -m exporters package-checkpoint`: the world package of a checkpoint of others."""

from __future__ import annotations

import argparse
import contextlib
import re
from pathlib import Path

import torch
from torch import Tensor

from dsa_runtime.spec import WorldSpec
from exporters.importers.confidence_file import read_confidence, read_meaning
from exporters.importers.prompts import read_prompts
from exporters.importers.self_forcing import read_generator
from exporters.importers.wan_vae import read_wan_vae
from exporters.model.small_decoder import SmallDecoder, load_small_decoder
from exporters.model.wan.config import WanConfig
from exporters.model.wan_vae.vae import WanVAE
from exporters.packaging.describe import calibration_spec
from exporters.packaging.wan_write import WanDescription, write_wan_package
from exporters.provenance import command_line, commit


def package_checkpoint(options: argparse.Namespace) -> int:
    """Write the world package of a checkpoint, its confidence head and a decoder."""
    told = read_meaning(options.checkpoint)
    try:
        played = WanConfig(**told["config"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{options.checkpoint}: its confidence file has no configuration ({error})") from None
    generator = read_generator(options.checkpoint, options.weights, played, getattr(torch, options.dtype))
    read_confidence(options.checkpoint, generator)
    if bool(generator.config.text_width) != (options.prompts is not None):
        needs = "takes text: give --prompts" if generator.config.text_width else "takes no text: leave --prompts out"
        raise ValueError(f"prompts: this model {needs}")
    prompts = {} if options.prompts is None else _named(read_prompts(options.prompts, generator.config), options.texts)
    name = options.name or re.sub("[^a-z0-9]+", "-", options.checkpoint.resolve().stem.lower()).strip("-")
    description = WanDescription(
        name=name,
        version=options.world_version,
        licence=options.licence,
        description=options.description or f"{options.checkpoint.name}, with a confidence head",
        fps=options.fps,
        levels=tuple(told["levels"]),
        calibration=calibration_spec(told["calibration"]),
        provenance={
            "checkpoint": options.checkpoint.name,
            "decoder": options.decoder.name,
            "command": command_line(),
            "commit": commit(),
            "confidence": {key: told[key] for key in ("transformer_sha256", "gate", "provenance") if key in told},
        },
    )
    card = f"# {name}\n\n{description.description}\n"
    spec = write_wan_package(options.folder, generator, _read_decoder(options.decoder), description, prompts, card)
    print_package(options.folder, spec)
    return 0


def print_package(folder: Path, spec: WorldSpec) -> None:
    """Say what was written."""
    size = sum(entry.bytes for entry in spec.files.values())
    print(f"{folder}: {spec.name} {spec.version}, {size / 2**20:.1f} MiB in {len(spec.files)} files")
    print(f"play it: dsa play {folder}")


def _read_decoder(path: Path) -> WanVAE | SmallDecoder:
    """A small decoder, or Wan's own autoencoder."""
    if path.suffix == ".safetensors":
        with contextlib.suppress(ValueError):
            return load_small_decoder(path)
    return read_wan_vae(path)


def _named(prompts: Tensor, texts: Path | None) -> dict[str, Tensor]:
    """Embeddings by what they say."""
    names = [f"prompt {number}" for number in range(1, len(prompts) + 1)]
    if texts is not None:
        names = [line.strip() for line in texts.read_text(encoding="utf-8").splitlines() if line.strip()]
    if len(names) != len(prompts) or len(set(names)) != len(names):
        raise ValueError(f"texts: {len(prompts)} prompts need as many different lines, got {len(names)}")
    return dict(zip(names, prompts, strict=True))
