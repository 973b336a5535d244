"""Shapes and devices by name, and the shape of a world package."""

from __future__ import annotations

import os

from ..errors import DsaError, WorldError
from ..package import bundled_worlds, open_package
from ..spec import SEEDS_FILE, WorldSpec
from .decoder import world_decoder
from .device import DEVICES, THIS_CPU, Device
from .family import WORLD
from .shape import Shape
from .this_cpu import measure_this_cpu
from .wan import WAN_SHAPES


def find_shape(name: str | os.PathLike[str]) -> Shape:
    """A named shape, or that of a world package. Raises DsaError for neither."""
    if name in WAN_SHAPES:
        return WAN_SHAPES[str(name)]
    try:
        with open_package(name) as package:
            return shape_of(package.spec)
    except WorldError as error:
        known = ", ".join([*WAN_SHAPES, *bundled_worlds()])
        raise DsaError(
            f"--shape {name}: neither one of {known} nor a world package that can be read: {error}"
        ) from None


def find_device(name: str) -> Device:
    """Raises DsaError for an unknown one."""
    if name == THIS_CPU:
        return measure_this_cpu()
    if name not in DEVICES:
        raise DsaError(f"--device: expected one of {', '.join([*DEVICES, THIS_CPU])}, got {name!r}")
    return DEVICES[name]


def shape_of(spec: WorldSpec) -> Shape:
    """A package's shape, for worlds that this repository's exporters wrote. Raises WorldError for others.

    The spec tells all but the width of the MLP and the autoencoder. The latter is taken to be the exporters' default,
    and the former what is then left of the weights, which are stored in 16 bits and begin on pages of 4096 bytes: a
    quarter of the model's width is more than what that adds.
    """
    cache, latent, frame = spec.cache, spec.latent, spec.frame
    cells = latent.height * latent.width // cache.tokens
    decoder = world_decoder(latent.height, latent.width, channels=latent.channels)

    def with_mlp(width: int) -> Shape:
        return Shape(
            name=spec.name,
            family=WORLD,
            layers=cache.layers,
            heads=cache.heads,
            head_dim=cache.head_dim,
            mlp_width=width,
            gated=False,
            tokens=cache.tokens,
            token_values=cells * latent.channels,
            window=cache.window,
            text_tokens=0,
            text_width=0,
            action_width=spec.action_space.width,
            taps=min(3, cache.layers),
            latent=(latent.channels, 1, latent.height, latent.width),
            picture=(frame.height, frame.width),
            pictures=frame.frames_per_tick,
            fps=frame.fps,
            steps=spec.schedule.steps,
            mean_steps=spec.schedule.steps,
            decoders=(decoder,),
        )

    graphs = {SEEDS_FILE, *spec.graphs.values()}
    weights = {file: entry.bytes for file, entry in spec.files.items() if file not in graphs and file[-3:] != ".md"}
    bare = with_mlp(0)
    encoder = 2 * decoder.parameters // 3  # one block per resolution where the decoder has two
    left = sum(weights.values()) // 2 - bare.parameters - bare.confidence_parameters - decoder.parameters - encoder
    quarter = max(1, bare.dim // 4)
    width = left // (2 * bare.dim * bare.layers) // quarter * quarter
    if width <= 0:
        raise WorldError(
            f"files: {', '.join(weights) or 'no weights'}: too small for a generator with a cache of this size;"
            " only worlds written by this repository's exporters have a shape that is known"
        )
    return with_mlp(width)
