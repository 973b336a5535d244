"""Streaming decoders as ONNX graphs, with the stream's state as inputs and outputs.

A first chunk gives fewer pictures than a later one, so there are two graphs, which share their weights:

    decode_first.onnx   latent                 -> frames, state_out_0, state_out_1, ...
    decode.onnx         latent, state_0, ...   -> frames, state_out_0, state_out_1, ...

latent float[B, C, n, h, w], n latents in every chunk; frames uint8[B, N, H, W, 3]; the state as in
`exporters.model.wan_vae.stream`. B is free, and streams that have begun at different times may share a batch. Latents
and state have the type of the decoder's weights. Only built-in operators.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from torch import Tensor, nn

from exporters.model.autoencoder import pictures_to_uint8
from exporters.model.small_decoder import SmallDecoder
from exporters.model.wan_vae.vae import WanVAE
from exporters.packaging.export import export_graph
from exporters.packaging.graphs import Graph
from exporters.packaging.weights_file import WeightsFile

WEIGHTS = "decode.bin"


class DecodeFirstGraph(nn.Module):
    """The first chunk of B streams."""

    def __init__(self, decoder: WanVAE | SmallDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, latent: Tensor) -> tuple[Tensor, ...]:
        """Frames, clamped and rounded to nearest, and the state."""
        pictures, state = self.decoder.decode_chunk(latent, None)
        return frames(pictures), *state


class DecodeGraph(DecodeFirstGraph):
    """A later chunk of B streams."""

    def forward(self, latent: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """As `DecodeFirstGraph`."""
        pictures, after = self.decoder.decode_chunk(latent, state)
        return frames(pictures), *after


def frames(pictures: Tensor) -> Tensor:
    """float[B, 3, N, H, W] in [-1, 1] -> uint8[B, N, H, W, 3]."""
    return pictures_to_uint8(pictures.movedim(2, 1))


def decode_graphs(decoder: WanVAE | SmallDecoder, chunk: int, height: int, width: int) -> list[Graph]:
    """`decode_first` and `decode` for chunks of `chunk` latents of height x width. Nothing of that size is computed."""
    first = DecodeFirstGraph(decoder)
    weights = dict(itertools.chain(first.named_parameters(), first.named_buffers()))
    dtype = next(first.parameters()).dtype
    # No size is 1, or tracing would take the batch for a constant. Untouched, so that it takes no memory.
    latent = torch.empty(2, decoder.config.latent_channels, chunk, height, width, dtype=dtype)
    on_meta = {name: tensor.to("meta") for name, tensor in weights.items()}
    _, *shapes = torch.func.functional_call(first, on_meta, (latent.to("meta"),))
    state = {f"state_{index}": torch.empty(shape.shape, dtype=dtype) for index, shape in enumerate(shapes)}
    inputs = {"latent": latent, **state}
    outputs = ("frames", *(name.replace("_", "_out_") for name in state))
    return [
        Graph("decode_first", first, {"latent": latent}, {"latent": "B"}, outputs),
        Graph("decode", DecodeGraph(decoder), inputs, dict.fromkeys(inputs, "B"), outputs),
    ]


def write_decoder(folder: Path, decoder: WanVAE | SmallDecoder, chunk: int, height: int, width: int) -> list[Path]:
    """Write the graphs and their common weights into `folder`, for chunks of `chunk` latents of height x width."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = WeightsFile(WEIGHTS)
    written = []
    for graph in decode_graphs(decoder, chunk, height, width):
        written.append(folder / f"{graph.name}.onnx")
        written[-1].write_bytes(export_graph(graph, weights))
    weights.write(folder)
    return [*written, folder / WEIGHTS]
