"""Write the world package of a generator of Wan's family. It begins with nothing: such models have no recordings."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dsa_runtime.actions import Discrete
from dsa_runtime.ops import schema
from dsa_runtime.package import open_package
from dsa_runtime.prompt import load_prompts
from dsa_runtime.seeds import load_seeds
from dsa_runtime.spec import (
    PROMPTS_FILE,
    SEEDS_FILE,
    ActionSpace,
    CacheSpec,
    CalibrationSpec,
    DecoderSpec,
    FrameSpec,
    LatentSpec,
    OpsSpec,
    ScheduleSpec,
    TextSpec,
    WorldSpec,
)
from exporters.model.small_decoder import SCALE
from exporters.model.wan.config import WanConfig
from exporters.model.wan.generator import WanGenerator
from exporters.packaging.forms import check_forms
from exporters.packaging.rounding import frozen
from exporters.packaging.wan_decode import Decoder, decode_graphs, pictures_per_latent
from exporters.packaging.wan_graphs import half, wan_graphs
from exporters.packaging.weights_file import WeightsFile
from exporters.packaging.write import (
    CARD_FILE,
    GRAPH_FILES,
    WEIGHTS_FILE,
    file_entries,
    replacing,
    write_graphs,
    write_spec,
)

NO_ACTION = Discrete(1, ("go on",))
"""The action space of a model without actions."""


@dataclass(frozen=True)
class WanDescription:
    """What a package says about its world beyond what the modules themselves know."""

    name: str
    version: str
    licence: str
    description: str
    fps: float
    """Pictures a second: Wan2.1 was trained at 16."""
    levels: tuple[float, ...]
    calibration: CalibrationSpec
    provenance: Mapping[str, Any]
    text_encoder: str = "umT5-XXL"
    action_space: ActionSpace = NO_ACTION


def write_wan_package(
    folder: Path,
    generator: WanGenerator,
    decoder: Decoder,
    description: WanDescription,
    prompts: Mapping[str, Tensor],
    card: str,
) -> WorldSpec:
    """Export generator and decoder and write the whole package to `folder`, replacing what is there; returns its spec.

    prompts   embeddings by their texts, [at most text_tokens, text_width] each; none for a model without text

    The modules are not changed. The new package is opened, loaded with the runtime and its forms compared before it
    takes its place. Raises `WorldError` or ValueError, and then `folder` is as it was.
    """
    c = generator.config
    if decoder.config.latent_channels != c.latent_channels:
        raise ValueError(
            f"latent channels differ: {c.latent_channels} and the decoder's {decoder.config.latent_channels}"
        )
    if bool(prompts) != bool(c.text_width):
        raise ValueError("prompts: a model that takes text needs one at least, and no other has any")
    generator, decoder = _deployed(generator), _deployed(decoder)
    decoding = decode_graphs(decoder, c.chunk, c.latent_height, c.latent_width)
    with replacing(folder) as partial:
        graphs = [*wan_graphs(generator, "plain"), *decoding]
        graphs += wan_graphs(generator, "op") + wan_graphs(half(generator), "half")
        write_graphs(partial, graphs, WeightsFile(WEIGHTS_FILE))
        action = np.zeros((1, 0, *description.action_space.shape), np.float32)
        np.savez(partial / SEEDS_FILE, latents=np.zeros((1, 0, *_latent(c).shape), np.float32), actions=action)
        if prompts:
            np.savez(partial / PROMPTS_FILE, text=np.stack([_filled(text, c) for text in prompts.values()]))
        (partial / CARD_FILE).write_text(card, encoding="utf-8")
        text = (
            TextSpec(c.text_width, c.text_tokens, description.text_encoder, tuple(prompts)) if prompts else TextSpec()
        )
        spec = WorldSpec(
            name=description.name,
            version=description.version,
            licence=description.licence,
            description=description.description,
            frame=_frame(c, decoder, description.fps),
            action_space=description.action_space,
            latent=_latent(c),
            cache=_cache(c),
            schedule=ScheduleSpec(description.levels, 0.0),
            ops=OpsSpec(schema.DOMAIN, schema.VERSION),
            graphs={graph.name: GRAPH_FILES[graph.name] for graph in graphs},
            calibration=description.calibration,
            files=file_entries(partial),
            provenance=description.provenance,
            decoder=DecoderSpec(tuple(tuple(state.shape[1:]) for state in list(decoding[1].inputs.values())[1:])),
            text=text,
        )
        write_spec(partial, spec)
        with open_package(partial) as package:
            check_forms(package, rounds=2)
            load_seeds(package.path(SEEDS_FILE), package.spec)
            if prompts:
                load_prompts(package.path(PROMPTS_FILE), package.spec)
    return spec


def _deployed(module: Any) -> Any:
    """A float32 CPU copy, its large weights rounded to float16 values."""
    return frozen(copy.deepcopy(module).cpu(), rounded=True)


def _frame(c: WanConfig, decoder: Decoder, fps: float) -> FrameSpec:
    height, width = SCALE * c.latent_height, SCALE * c.latent_width
    divisor = math.gcd(height, width)
    pictures = c.chunk * pictures_per_latent(decoder)
    return FrameSpec(height, width, 3, fps, pictures, (width // divisor, height // divisor))


def _latent(c: WanConfig) -> LatentSpec:
    return LatentSpec(c.latent_channels, c.latent_height, c.latent_width, c.chunk)


def _cache(c: WanConfig) -> CacheSpec:
    """Its theta and `temporal_dims` are for ages in ticks times the chunk's latent frames, as the graphs have them."""
    return CacheSpec(c.depth, c.heads, c.head_dim, c.tokens, c.window, c.sink, c.temporal_dims, c.theta)


def _filled(text: Tensor, c: WanConfig) -> np.ndarray:
    filled = np.zeros((c.text_tokens, c.text_width), np.float32)
    filled[: len(text)] = text.float().cpu().numpy()
    return filled
