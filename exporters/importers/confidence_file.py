"""A fitted confidence head on disk: its weights as safetensors, and beside them as JSON what they mean."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch

from exporters.importers.checkpoint import HEAD, CheckpointError, load_into, open_checkpoint
from exporters.importers.post_hoc import PostHocFit
from exporters.model.wan.generator import WanGenerator
from exporters.training.digest import weights_digest

VERSION = 1
MEANING = ".confidence.json"


def confidence_files(checkpoint: Path) -> tuple[Path, Path]:
    """Where a checkpoint's head lies, weights and meaning: beside the file or folder, and named as it."""
    checkpoint = Path(os.path.abspath(checkpoint))  # `.` has no name
    stem = checkpoint.name if checkpoint.is_dir() else checkpoint.stem
    return checkpoint.with_name(stem + HEAD), checkpoint.with_name(stem + MEANING)


def write_confidence(
    checkpoint: Path,
    generator: WanGenerator,
    levels: tuple[float, ...],
    fitted: PostHocFit,
    provenance: Mapping[str, Any],
) -> tuple[Path, Path]:
    """Write both files, the meaning last. A file that was there is replaced."""
    weights, meaning = confidence_files(checkpoint)
    told = {
        "format_version": VERSION,
        "transformer_sha256": weights_digest(generator.transformer),
        "config": asdict(generator.config),
        "taps": list(generator.config.taps),
        "levels": list(levels),
        "calibration": fitted.calibration,
        "gate": fitted.gate,
        "provenance": dict(provenance),
    }
    for file in (weights, meaning):
        partial = file.with_name(file.name + ".partial")
        if file is weights:
            safetensors.torch.save_file(fitted.head.state_dict(), partial)
        else:
            partial.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, file)
    return weights, meaning


def read_meaning(checkpoint: Path) -> dict[str, Any]:
    """What the JSON beside a checkpoint says of its head. Raises CheckpointError if there is none of this version."""
    _, meaning = confidence_files(checkpoint)
    if not meaning.is_file():
        raise CheckpointError(f"{meaning}: there is no such file; `python -m exporters confidence` makes it")
    try:
        told = dict(json.loads(meaning.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{meaning}: damaged ({error})") from None
    missing = {"format_version", "transformer_sha256", "config", "levels", "calibration"} - told.keys()
    if missing:
        raise CheckpointError(f"{meaning}: damaged (it lacks {', '.join(sorted(missing))})")
    if told["format_version"] != VERSION:
        raise CheckpointError(f"{meaning}: format_version {told['format_version']} is not {VERSION}; fit the head anew")
    return told


def read_confidence(checkpoint: Path, generator: WanGenerator) -> dict[str, Any]:
    """Give `generator` the head that was fitted for it, and return what the JSON says.

    Raises CheckpointError if there is none, or if it was fitted to other weights; the same ones in another precision
    are others.
    """
    told = read_meaning(checkpoint)
    weights, meaning = confidence_files(checkpoint)
    if told["transformer_sha256"] != weights_digest(generator.transformer):
        raise CheckpointError(f"{meaning}: the head was fitted to other weights, or to these in another precision")
    load_into(
        generator.confidence, open_checkpoint(weights), {name: name for name in generator.confidence.state_dict()}
    )
    generator.confidence.to(next(generator.transformer.parameters()).device).eval().requires_grad_(False)
    return told
