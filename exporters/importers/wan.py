"""Wan2.1's published transformers, in the names of `diffusers` or of Wan's own files."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from exporters.importers.checkpoint import Checkpoint, CheckpointError, load_into, open_checkpoint
from exporters.importers.wan_names import ORIGINAL, published_name, style_of
from exporters.model.wan.block import EPS
from exporters.model.wan.config import WanConfig
from exporters.model.wan.generator import WanGenerator
from exporters.model.wan.transformer import WanTransformer, parameter_dtype

FIRST = "patch_embedding.weight"
HEAD_DIM = 128
"""Of every published Wan2.1 model; the shapes alone do not say it."""
PLAYED = WanConfig()


def read_wan(path: Path, played: WanConfig = PLAYED, dtype: torch.dtype = torch.float32) -> WanGenerator:
    """The transformer of a checkpoint as a frozen generator, its confidence head untrained.

    path     a file or folder that `open_checkpoint` knows; of a pipeline of `diffusers` its folder `transformer`
    played   chunk, window, sink and size of the latent are taken from here, and the number of heads where neither
             a `config.json` nor the usual head width of 128 says it
    dtype    in what the large matrices are kept; norms and the noise level's layers stay in float32

    Raises CheckpointError with all that is missing, left over or of another shape.
    """
    return build(bare(open_checkpoint(path)), played, dtype)


def bare(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint without what stands before the names of its only transformer, such as `model.diffusion_model.`."""
    found = [name for name in checkpoint if name == FIRST or name.endswith("." + FIRST)]
    if len(found) != 1:
        which = "no" if not found else "more than one"
        raise CheckpointError(f"{checkpoint.path}: it has {which} {FIRST}, so it is not one transformer of Wan's")
    return checkpoint.under(found[0].removesuffix(FIRST))


def build(checkpoint: Checkpoint, played: WanConfig, dtype: torch.dtype) -> WanGenerator:
    """A generator of the checkpoint's shapes with its weights. Raises as `read_wan`."""
    config = config_of(checkpoint, played)
    with torch.device("meta"):
        transformer = WanTransformer(config)
    style = style_of(checkpoint)
    names = {name: published_name(name, style) for name in transformer.state_dict()}
    convert = {name: rule for name in names if (rule := _rule(name, config, back=False)) is not None}
    load_into(transformer, checkpoint, names, convert, lambda name: parameter_dtype(name, dtype))
    return WanGenerator(transformer.requires_grad_(False)).eval()


def config_of(checkpoint: Checkpoint, played: WanConfig) -> WanConfig:
    """The configuration that the shapes and, for the number of heads, `config.json` say."""
    style = style_of(checkpoint)

    def shape(name: str) -> tuple[int, ...]:
        return checkpoint.shape(published_name(name, style))

    first = shape("stem.embed.weight")
    if len(first) != 5 or first[2] != 1 or first[3] != first[4]:
        raise CheckpointError(f"{checkpoint.path}: {FIRST} is {list(first)}; patches must be 1 frame deep and square")
    blocks = {int(match[1]) for name in checkpoint if (match := re.match(r"blocks\.(\d+)\.", name))}
    if not blocks:
        raise CheckpointError(f"{checkpoint.path}: it has no blocks")
    text = published_name("text_rise.weight", style)
    said = checkpoint.config
    if float(said.get("eps", EPS)) != EPS:
        raise CheckpointError(f"{checkpoint.path}: config.json says eps {said['eps']}, and Wan's norms have {EPS}")
    return replace(
        played,
        dim=first[0],
        latent_channels=first[1],
        patch=first[3],
        depth=max(blocks) + 1,
        heads=_heads(checkpoint, first[0], said, played),
        mlp_width=shape("blocks.0.rise.weight")[0],
        level_width=shape("level_rise.weight")[1],
        text_width=checkpoint.shape(text)[1] if text in checkpoint else 0,
        action_width=0,
    )


def _heads(checkpoint: Checkpoint, dim: int, said: Any, played: WanConfig) -> int:
    usual = dim // HEAD_DIM if dim % HEAD_DIM == 0 else played.heads
    heads = said.get("num_attention_heads", said.get("num_heads", usual))
    # Rotary position needs pairs in each of a head's three sections.
    if not isinstance(heads, int) or heads < 1 or dim % (2 * heads) or dim // heads < 6:
        raise CheckpointError(f"{checkpoint.path}: {heads} heads do not fit a width of {dim}; correct config.json")
    return heads


def published_state(transformer: WanTransformer, style: str = ORIGINAL) -> dict[str, Tensor]:
    """The weights under published names and in published shapes: what `read_wan` reads back."""
    state = {}
    for name, value in transformer.state_dict().items():
        rule = _rule(name, transformer.config, back=True)
        state[published_name(name, style)] = (rule(value) if rule is not None else value).contiguous()
    return state


def halves_order(config: WanConfig) -> Tensor:
    """int64[dim]: which published row each row of a query or key projection is.

    Wan rotates neighbours, (0, 1), (2, 3) ..., this project's operator the two halves of a section; the sections of a
    head are time, row and column. The same order for query and key leaves every score as it was, and since their norm
    is a mean over all rows, its weights only have to move along.
    """
    space = (config.head_dim - config.temporal_dims) // 2
    head, start = [], 0
    for size in (config.temporal_dims, space, space):
        section = torch.arange(start, start + size)
        head += [section[0::2], section[1::2]]
        start += size
    return (torch.arange(config.heads)[:, None] * config.head_dim + torch.cat(head)).flatten()


def _rule(name: str, config: WanConfig, back: bool) -> Callable[[Tensor], Tensor] | None:
    """What a published tensor goes through to become ours, or ours to be published; None: nothing."""
    if re.fullmatch(r"blocks\.\d+\.(query|key)(_norm)?\.(weight|bias)", name):
        order = halves_order(config)
        order = order.argsort() if back else order
        return lambda x: x[order]
    if name.rpartition(".")[2] == "modulation":
        return (lambda x: x.unsqueeze(0)) if back else (lambda x: x.squeeze(0))
    cells, channels = config.patch**2, config.latent_channels
    if name == "stem.embed.weight":  # a convolution over (1, patch, patch) that steps by its size
        kernel = (channels, 1, config.patch, config.patch)
        return (lambda x: x.unflatten(1, kernel)) if back else (lambda x: x.flatten(1))
    if name.startswith("out."):  # published: channels last, here: cells last
        sizes = (channels, cells) if back else (cells, channels)
        return lambda x: x.unflatten(0, sizes).transpose(0, 1).flatten(0, 1)
    return None
