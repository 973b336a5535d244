"""Checkpoints of Self-Forcing and CausVid: Wan2.1's transformer made causal, in files with more than one model."""

from __future__ import annotations

from pathlib import Path

import torch

from exporters.importers.checkpoint import Checkpoint, CheckpointError, open_checkpoint
from exporters.importers.wan import PLAYED, bare, build
from exporters.model.flow import schedule_levels
from exporters.model.wan.config import WanConfig
from exporters.model.wan.generator import WanGenerator

LEVELS = schedule_levels(4, 5.0)
"""The noise levels that Self-Forcing's published generator was distilled for: steps 1000, 750, 500, 250 of 1000, moved
by a shift of 5."""
AVERAGE, PLAIN = "generator_ema", "generator"


def read_self_forcing(
    path: Path, weights: str | None = None, played: WanConfig = PLAYED, dtype: torch.dtype = torch.float32
) -> WanGenerator:
    """The generator of a checkpoint. The critic and whatever else is in the file is not read.

    weights   "generator_ema", the running average, or "generator" (default: the average if there is one)
    played    chunk, window and size of the latent; the default is what the published weights were trained for
              (chunks of 3 latent frames, of which 7 see each other)

    The rest is as `read_wan` has it.
    """
    return _generator(open_checkpoint(path), weights, played, dtype)


def read_generator(
    path: Path, weights: str | None = None, played: WanConfig = PLAYED, dtype: torch.dtype = torch.float32
) -> WanGenerator:
    """As `read_self_forcing` of a file with several models, or if `weights` are named; as `read_wan` of others."""
    checkpoint = open_checkpoint(path)
    if weights is not None or _generators(checkpoint):
        return _generator(checkpoint, weights, played, dtype)
    return build(bare(checkpoint), played, dtype)


def _generator(checkpoint: Checkpoint, weights: str | None, played: WanConfig, dtype: torch.dtype) -> WanGenerator:
    there = _generators(checkpoint)
    if not there:
        raise CheckpointError(f"{checkpoint.path}: it has neither {AVERAGE} nor {PLAIN}; is it Wan's own checkpoint?")
    chosen = weights or there[0]
    if chosen not in there:
        raise CheckpointError(f"{checkpoint.path}: it has no weights {chosen!r}; it has {', '.join(there)}")
    return build(bare(checkpoint.under(f"{chosen}.")), played, dtype)


def _generators(checkpoint: Checkpoint) -> list[str]:
    return [name for name in (AVERAGE, PLAIN) if any(key.startswith(f"{name}.") for key in checkpoint)]
