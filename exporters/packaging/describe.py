"""Parts of a WorldSpec from what recording and training left on disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsa_runtime import strict_json
from dsa_runtime.spec import (
    ActionSpace,
    Box,
    CacheSpec,
    CalibrationSpec,
    Discrete,
    FrameSpec,
    LatentSpec,
    MultiBinary,
)
from exporters.model.generator import GeneratorConfig
from exporters.recording.dataset import DatasetSpec

_SPACES: dict[str, type[Discrete] | type[MultiBinary] | type[Box]] = {
    space.__name__: space for space in (Discrete, MultiBinary, Box)
}


def frame_spec(dataset: DatasetSpec) -> FrameSpec:
    """The frame of a recording; pixels are square unless it says otherwise."""
    frame = {"frames_per_tick": 1, "display_aspect": [dataset.frame["width"], dataset.frame["height"]], **dataset.frame}
    return strict_json.decode(FrameSpec, frame, "dataset.frame")


def action_space(dataset: DatasetSpec) -> ActionSpace:
    """The action space of a recording."""
    fields = dict(dataset.action_space)
    return strict_json.decode(_SPACES[fields.pop("type")], fields, "dataset.action_space")


def calibration_spec(table: Mapping[str, Any]) -> CalibrationSpec:
    """The calibration stage's table as the spec's; raises `WorldError` naming a field that does not fit."""
    return strict_json.decode(CalibrationSpec, dict(table), "calibration")


def latent_spec(config: GeneratorConfig) -> LatentSpec:
    """The latent of a generator."""
    return LatentSpec(config.latent_channels, config.latent_height, config.latent_width)


def cache_spec(config: GeneratorConfig) -> CacheSpec:
    """The frame cache of a generator."""
    return CacheSpec(
        layers=config.depth,
        heads=config.heads,
        head_dim=config.head_dim,
        tokens=config.tokens,
        window=config.window,
        sink=0,
        temporal_dims=config.temporal_dims,
        theta=config.theta,
    )
