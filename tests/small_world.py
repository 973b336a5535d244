"""Small untrained modules and their world package, for tests of the training side. Needs torch."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from dsa_runtime.spec import Discrete, FrameSpec, ScheduleSpec
from exporters.model.autoencoder import Autoencoder, AutoencoderConfig
from exporters.model.generator import Generator, GeneratorConfig
from exporters.packaging.clips import Clips
from exporters.packaging.describe import calibration_spec
from exporters.packaging.write import WorldDescription, write_package

Module = TypeVar("Module", bound=torch.nn.Module)

GENERATOR = GeneratorConfig(
    latent_channels=4, latent_height=4, latent_width=2, patch=1, action_width=3,
    dim=48, depth=3, heads=3, window=3, temporal_dims=8,
)  # fmt: skip
AUTOENCODER = AutoencoderConfig(latent_channels=4, widths=(16, 16, 16), decoder_blocks=1)
LEVELS = (1.0, 0.8, 0.5)
PICTURE = (32, 16, 3)


@functools.cache
def small_generator(config: GeneratorConfig = GENERATOR) -> Generator:
    """Every parameter away from its initial zero, so that no path is silent."""
    return _stirred(functools.partial(Generator, config))


@functools.cache
def small_autoencoder() -> Autoencoder:
    """As `small_generator`; its normalisation has statistics of its own."""
    module = _stirred(functools.partial(Autoencoder, AUTOENCODER))
    module.train()
    with torch.no_grad():
        for seed in range(40):
            rng = torch.Generator().manual_seed(seed)
            module.encode(torch.rand(8, 3, *PICTURE[:2], generator=rng) * 2 - 1)
    return module.eval()


def small_description(**changes: Any) -> WorldDescription:
    """A description that fits the small modules."""
    # About half of the small generator's logits lie above the middle, so the threshold decides something.
    curve = {"logit": [0.0, 1.75], "value": [0.0, 1.0]}
    fields: dict[str, Any] = {
        "name": "small",
        "version": "0.0.1",
        "licence": "CC0-1.0",
        "description": "test fixture",
        "frame": FrameSpec(PICTURE[0], PICTURE[1], 3, 20.0, 1, (1, 2)),
        "action_space": Discrete(3, ("noop", "left", "right")),
        "schedule": ScheduleSpec(LEVELS, 0.0),
        "calibration": calibration_spec(
            {
                "delta": 1.0,
                "delta_unit": "grey levels",
                "default_threshold": 0.5,
                "within_delta": [curve, curve],
                "benefit": [curve, curve],
                "thresholds": [{"threshold": 0.5, "mean_steps": 2.0}],
            }
        ),
        "provenance": {"what": "a test fixture"},
    }
    return WorldDescription(**{**fields, **changes})


def small_clips(count: int = 2, length: int = GENERATOR.window, seed: int = 0) -> Clips:
    """Random pictures and actions."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (count, length, *PICTURE), np.uint8)
    return Clips(frames, rng.integers(0, GENERATOR.action_width, (count, length)))


@functools.cache
def small_package() -> Path:
    """The package of the small modules; tests only read it."""
    scratch = Path(tempfile.mkdtemp(prefix="dsa-small-world-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    folder = scratch / "small"
    write_package(folder, small_generator(), small_autoencoder(), small_description(), small_clips(), "A fixture.\n")
    return folder


def _stirred(make: Callable[[], Module]) -> Module:
    """The same weights whatever ran before, and none of them zero; torch's global generator is left alone."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        module = make()
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return module.eval()
