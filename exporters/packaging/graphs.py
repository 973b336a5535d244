"""The graphs of a world package as torch modules, with exactly the inputs and outputs that the runtime binds.

B sessions, S pool slots, T tokens of a frame, H heads, D head width, W window, A action width, C latent channels;
B and S are free in every graph. The generator's graphs come in the runtime's two forms (`dsa_runtime.form`), with the
same inputs, outputs and weights: plain, and with one `dsa.PagedFrameAttention` node per layer.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dsa_runtime.form import Form
from exporters.model import attention
from exporters.model.autoencoder import Autoencoder, pictures_to_float, pictures_to_uint8
from exporters.model.generator import Attend, Generator, GeneratorConfig
from exporters.model.wan.config import WanConfig
from exporters.packaging import translate

PICTURE_SCALE = 8
"""Side of a picture over the side of its latent."""


@dataclass(frozen=True)
class Graph:
    """A module to be exported, an example of its inputs, and the names by which the runtime knows them."""

    name: str
    """As in `WorldSpec.graphs`."""
    module: nn.Module
    inputs: dict[str, Tensor]
    free: dict[str, str]
    """Input -> name of its first axis, which is free."""
    outputs: tuple[str, ...]


class DenoiseGraph(nn.Module):
    """One denoising step: clean estimate float32[B, C, h, w] and confidence logit float32[B]."""

    def __init__(self, generator: Generator, form: Form) -> None:
        super().__init__()
        self.generator, self.form = generator, form

    def forward(
        self, latent: Tensor, level: Tensor, action: Tensor, slot_table: Tensor, slot_age: Tensor, *pools: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Pools are key and value of each layer in turn.

        latent [B, C, h, w], level [B], action [B, A], tables int32[B, W], pools [S, T, H, D].
        """
        attends = paged_attends(self.generator.config, self.form, slot_table, slot_age, pools)
        clean, taps, condition = self.generator.run(latent, level, action, attends)
        return clean, self.generator.confidence(taps, condition)


class CommitGraph(nn.Module):
    """Keys and values of a finished frame: key, value per layer, each float32[B, T, H, D]."""

    def __init__(self, generator: Generator, form: Form) -> None:
        super().__init__()
        self.generator, self.form = generator, form

    def forward(
        self, latent: Tensor, level: Tensor, action: Tensor, slot_table: Tensor, slot_age: Tensor, *pools: Tensor
    ) -> tuple[Tensor, ...]:
        """The inputs of `DenoiseGraph`, with the clean latent and the context level."""
        attends = paged_attends(self.generator.config, self.form, slot_table, slot_age, pools)
        keys, values = self.generator.keys_values(latent, level, action, attends)
        return tuple(tensor for pair in zip(keys, values, strict=True) for tensor in pair)


class WriteGraph(nn.Module):
    """Frames of B sessions into their slots of all pools: key, value per layer, each float32[S, T, H, D]."""

    def forward(self, slot: Tensor, *frames_and_pools: Tensor) -> tuple[Tensor, ...]:
        """slot int32[B] (-1: nothing written); frames [B, T, H, D] as `CommitGraph` returns them, then the pools."""
        layers = len(frames_and_pools) // 2
        frames, pools = frames_and_pools[:layers], frames_and_pools[layers:]
        return tuple(translate.paged_frame_write(frame, pool, slot) for frame, pool in zip(frames, pools, strict=True))


class DecodeGraph(nn.Module):
    """Latent float32[B, C, h, w] -> picture uint8[B, H, W, 3]."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, latent: Tensor) -> Tensor:
        """Clamped and rounded to nearest."""
        return pictures_to_uint8(self.autoencoder.decode(latent))


class EncodeGraph(nn.Module):
    """Picture uint8[B, H, W, 3] -> latent float32[B, C, h, w]."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, frame: Tensor) -> Tensor:
        """Deterministic: the autoencoder's own noise is a matter of training."""
        return self.autoencoder.encode(pictures_to_float(frame))


def paged_attends(
    config: GeneratorConfig | WanConfig, form: Form, slot_table: Tensor, slot_age: Tensor, pools: tuple[Tensor, ...]
) -> list[Attend]:
    """Per layer the attention over the frame itself and the slots of the tables."""
    paged = attention.paged_attention if form == "plain" else translate.paged_frame_attention
    return [
        functools.partial(
            paged,
            key_pool=key_pool,
            value_pool=value_pool,
            slot_table=slot_table,
            slot_age=slot_age,
            temporal_dims=config.temporal_dims,
            theta=config.theta,
        )
        for key_pool, value_pool in zip(pools[::2], pools[1::2], strict=True)
    ]


def generator_graphs(generator: Generator, form: Form) -> list[Graph]:
    """`denoise` and `commit`, or `denoise_op`, `commit_op` and `write_op`."""
    c = generator.config
    # Sizes of the example: none is 1 and free sizes differ from all others, or tracing would take them for constants.
    batch, slots = 2, c.window + 3
    names = [f"{kind}_{layer}" for layer in range(c.depth) for kind in ("key", "value")]
    pools = {name.replace("_", "_pool_"): torch.zeros(slots, c.tokens, c.heads, c.head_dim) for name in names}
    state = {
        "latent": torch.zeros(batch, c.latent_channels, c.latent_height, c.latent_width),
        "level": torch.ones(batch),
        "action": torch.zeros(batch, c.action_width),
        "slot_table": torch.zeros(batch, c.window, dtype=torch.int32),
        "slot_age": torch.ones(batch, c.window, dtype=torch.int32),
    }
    inputs, free = {**state, **pools}, dict.fromkeys(state, "B") | dict.fromkeys(pools, "S")
    suffix = "" if form == "plain" else "_op"
    graphs = [
        Graph(f"denoise{suffix}", DenoiseGraph(generator, form), inputs, free, ("clean", "confidence_logit")),
        Graph(f"commit{suffix}", CommitGraph(generator, form), inputs, free, tuple(names)),
    ]
    if form == "op":
        frames = {name: torch.zeros(batch, c.tokens, c.heads, c.head_dim) for name in names}
        frames = {"slot": torch.zeros(batch, dtype=torch.int32), **frames}
        written = tuple(name.replace("_", "_pool_out_") for name in names)
        free = dict.fromkeys(frames, "B") | dict.fromkeys(pools, "S")
        graphs.append(Graph("write_op", WriteGraph(), {**frames, **pools}, free, written))
    return graphs


def autoencoder_graphs(autoencoder: Autoencoder, latent_height: int, latent_width: int) -> list[Graph]:
    """`decode` and `encode`, for latents of this size."""
    c = autoencoder.config
    latent = torch.zeros(2, c.latent_channels, latent_height, latent_width)
    frame = torch.zeros(
        2, PICTURE_SCALE * latent_height, PICTURE_SCALE * latent_width, c.picture_channels, dtype=torch.uint8
    )
    return [
        Graph("decode", DecodeGraph(autoencoder), {"latent": latent}, {"latent": "B"}, ("frame",)),
        Graph("encode", EncodeGraph(autoencoder), {"frame": frame}, {"frame": "B"}, ("latent",)),
    ]
