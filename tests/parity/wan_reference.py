"""Tiny random Wan models: the reference, `diffusers`, and ours with the same weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor

from exporters.importers.checkpoint import Checkpoint, StoredTensor
from exporters.importers.wan import build
from exporters.model.wan.config import WanConfig
from exporters.model.wan.generator import WanGenerator

PLAYED = WanConfig(chunk=2, latent_height=4, latent_width=6, text_tokens=5, window=2)
"""A chunk of 2 latent frames of 4x6: 12 tokens."""
SHAPE: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 20,
    "freq_dim": 16,
    "ffn_dim": 40,
    "num_layers": 3,
}


def reference(**shape: Any) -> Any:
    """A `WanTransformer3DModel` whose every weight is random: no bias, gate or norm is trivial."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = diffusers.WanTransformer3DModel(**SHAPE | shape).eval().requires_grad_(False)
        for name, parameter in model.named_parameters():
            is_norm = "norm" in name and name.endswith("weight")
            std = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.3
            torch.nn.init.normal_(parameter, mean=float(is_norm), std=std)
    return model


def checkpoint(tensors: Mapping[str, Tensor], **config: Any) -> Checkpoint:
    """One in memory."""
    entries = {name: StoredTensor(tuple(value.shape), value.clone) for name, value in tensors.items()}
    return Checkpoint(Path("memory.safetensors"), entries, config)


def ours(model: Any, dtype: torch.dtype = torch.float32, **played: Any) -> WanGenerator:
    """The generator with the weights of a reference."""
    heads = model.config.num_attention_heads
    return build(checkpoint(model.state_dict(), num_attention_heads=heads), replace(PLAYED, **played), dtype)


def velocity(noisy: Tensor, clean: Tensor, level: Tensor) -> Tensor:
    """What the network itself has said, of a clean estimate [B, ...] at levels [B]."""
    return (noisy - clean) / level.reshape(-1, *[1] * (noisy.dim() - 1))


def random(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal, always the same."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
