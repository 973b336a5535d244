"""Streaming decoders as ONNX graphs, with the stream's state as inputs and outputs.

A stream's first chunk has no state before it, so there are two graphs, which share their weights:

    decode_first   latent                 -> frame, state_out_0, state_out_1, ...
    decode         latent, state_0, ...   -> frame, state_out_0, state_out_1, ...

latent float[B, C, n, h, w], n latents in every chunk; frame uint8[B, N, H, W, 3], as many of a first chunk, whose first
picture is repeated for those that are missing; the state as in `exporters.model.wan_vae.stream`. B is free, and streams
that have begun at different times may share a batch. Latents and state have the type of the decoder's weights. Only
built-in operators.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from exporters.model.autoencoder import pictures_to_uint8
from exporters.model.small_decoder import PICTURES, SmallDecoder
from exporters.model.wan_vae.vae import WanVAE
from exporters.packaging.graphs import Graph

Decoder = WanVAE | SmallDecoder


class DecodeFirstGraph(nn.Module):
    """The first chunk of B streams."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, latent: Tensor) -> tuple[Tensor, ...]:
        """Frames, clamped and rounded to nearest, and the state."""
        latents = chunk(latent)
        pictures, state = self.decoder.decode_chunk(latents, None)
        drawn = frames(pictures)
        missing = latents.shape[2] * pictures_per_latent(self.decoder) - drawn.shape[1]
        return torch.cat([drawn[:, :1]] * missing + [drawn], dim=1), *state


class DecodeGraph(DecodeFirstGraph):
    """A later chunk of B streams."""

    def forward(self, latent: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """As `DecodeFirstGraph`."""
        pictures, after = self.decoder.decode_chunk(chunk(latent), state)
        return frames(pictures), *after


def chunk(latent: Tensor) -> Tensor:
    """[B, C, n, h, w], also of a chunk of one latent frame, [B, C, h, w]."""
    return latent if latent.dim() == 5 else latent.unsqueeze(2)


def pictures_per_latent(decoder: Decoder) -> int:
    """Of every latent frame but a stream's first, which is one picture."""
    return decoder.config.pictures_per_latent if isinstance(decoder, WanVAE) else PICTURES


def frames(pictures: Tensor) -> Tensor:
    """float[B, 3, N, H, W] in [-1, 1] -> uint8[B, N, H, W, 3]."""
    return pictures_to_uint8(pictures.movedim(2, 1))


def decode_graphs(decoder: Decoder, length: int, height: int, width: int) -> list[Graph]:
    """`decode_first` and `decode` for chunks of `length` latents of height x width; nothing that large is computed."""
    first = DecodeFirstGraph(decoder)
    weights = dict(itertools.chain(first.named_parameters(), first.named_buffers()))
    dtype = next(first.parameters()).dtype
    # No size is 1, or tracing would take the batch for a constant. Untouched, so that it takes no memory.
    shape = (length, height, width) if length > 1 else (height, width)
    latent = torch.empty(2, decoder.config.latent_channels, *shape, dtype=dtype)
    on_meta = {name: tensor.to("meta") for name, tensor in weights.items()}
    _, *shapes = torch.func.functional_call(first, on_meta, (latent.to("meta"),))
    state = {f"state_{index}": torch.empty(shape.shape, dtype=dtype) for index, shape in enumerate(shapes)}
    inputs = {"latent": latent, **state}
    outputs = ("frame", *(name.replace("_", "_out_") for name in state))
    return [
        Graph("decode_first", first, {"latent": latent}, {"latent": "B"}, outputs),
        Graph("decode", DecodeGraph(decoder), inputs, dict.fromkeys(inputs, "B"), outputs),
    ]
