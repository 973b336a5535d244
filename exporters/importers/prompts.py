"""Prompts: text embeddings that were made elsewhere, read from a file."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from exporters.importers.arrays import read_array
from exporters.importers.checkpoint import CheckpointError
from exporters.model.wan.config import WanConfig


def read_prompts(path: Path, config: WanConfig) -> Tensor:
    """The only array of a `.safetensors` or `.npz` file as float32[N, L, text_width].

    Raises CheckpointError if it is not one array of embeddings as this model takes them.
    """
    embeddings = read_array(path)
    wanted = f"[N, at most {config.text_tokens}, {config.text_width}]"
    shape = list(embeddings.shape)
    if len(shape) != 3 or not shape[0] or not 0 < shape[1] <= config.text_tokens or shape[2] != config.text_width:
        raise CheckpointError(f"{path}: embeddings must be {wanted}, got {shape}")
    if not embeddings.is_floating_point() or not embeddings.isfinite().all():
        raise CheckpointError(f"{path}: embeddings must be finite floating-point numbers")
    return embeddings.float()
