"""The decoders that `bench_wan` measures, with random weights, each with a stream of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from exporters.model.autoencoder import pictures_to_uint8
from exporters.model.small_decoder import SmallDecoder, SmallDecoderConfig
from exporters.model.wan.config import WanConfig
from exporters.model.wan_vae.config import WanVAEConfig
from exporters.model.wan_vae.stream import Stream, StreamingDecoder
from exporters.model.wan_vae.vae import WanVAE
from tests.bench.wan_sizes import TINY_BASE, TINY_WIDTHS


@dataclass(frozen=True)
class Decode:
    """Latents float32[1, C, n, h, w] -> pictures uint8[N, H, W, 3] on the host, in the middle of a stream."""

    name: str
    compiled: bool
    run: Callable[[Tensor], Tensor]


def make_decoders(config: WanConfig, device: str, dtype: torch.dtype, *, tiny: bool, compiled: bool) -> list[Decode]:
    """Wan's and the small one, eager and, if `compiled`, compiled too (at once: it takes a while)."""
    torch.manual_seed(3)
    with torch.device(device):
        full = WanVAE(WanVAEConfig(base_width=TINY_BASE) if tiny else WanVAEConfig())
        small = SmallDecoder(SmallDecoderConfig(widths=TINY_WIDTHS) if tiny else SmallDecoderConfig())
    made = []
    for name, model in (("full", full), ("small", small)):
        model.to(dtype).eval().requires_grad_(False)
        made.append(_decode(config, device, dtype, name, model, compiled=False))
        if compiled:
            made.append(_decode(config, device, dtype, name, model, compiled=True))
    return made


def _decode(
    config: WanConfig, device: str, dtype: torch.dtype, name: str, model: StreamingDecoder, *, compiled: bool
) -> Decode:
    chunk = torch.compile(model.decode_chunk, dynamic=False) if compiled else model.decode_chunk
    start = torch.zeros(1, *config.latent_shape, device=device, dtype=dtype)
    with torch.no_grad():  # a stream's first chunk is another graph, which is not worth compiling
        kept: list[Stream] = [model.decode_chunk(start, None)[1]]

    @torch.no_grad()
    def run(latents: Tensor) -> Tensor:
        pictures, kept[0] = chunk(latents.to(dtype), kept[0])
        return pictures_to_uint8(pictures[0].movedim(1, 0)).cpu()

    run(start)
    return Decode(f"{name} compiled" if compiled else name, compiled, run)
