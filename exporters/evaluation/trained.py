"""TrainedWorld: the models that an evaluation plays, read from a training run's checkpoints."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exporters.model.autoencoder import Autoencoder, pictures_to_float, pictures_to_uint8
from exporters.model.confidence import ConfidenceHead
from exporters.model.generator import Generator
from exporters.training.branch import BASE_STAGES, run_folder
from exporters.training.config import TrainConfig
from exporters.training.run import load_result

FINISHED = "generator"
"""Name of the finished run's checkpoint; any other name is that of a training stage."""


@dataclass(frozen=True)
class TrainedWorld:
    """Generator and autoencoder in eval mode, the schedule, and the WorldSpec's calibration table if there is one."""

    generator: Generator
    autoencoder: Autoencoder
    levels: tuple[float, ...]
    calibration: Mapping[str, Any] | None = None
    checkpoint_sha256: str = ""
    heads: Mapping[str, ConfidenceHead] = field(default_factory=dict)
    """All confidence heads of a finished run by name."""
    calibrations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Calibration tables by head."""
    kept: str | None = None
    """Name of the generator's own head and of `calibration`."""

    @property
    def window(self) -> int:
        """Context frames that a new frame sees."""
        return int(self.generator.config.window)

    @property
    def steps(self) -> int:
        """Denoising steps of the full schedule, K."""
        return len(self.levels)

    @torch.inference_mode()
    def encode(self, frames: np.ndarray, batch: int = 64) -> Tensor:
        """uint8[..., H, W, 3] -> latents float32[..., C, h, w]."""
        flat = torch.from_numpy(np.ascontiguousarray(frames.reshape(-1, *frames.shape[-3:])))
        parts = [self.autoencoder.encode(_channels_last(pictures_to_float(part))) for part in flat.split(batch)]
        return torch.cat(parts).contiguous().unflatten(0, frames.shape[:-3])

    @torch.inference_mode()
    def decode(self, latents: Tensor, batch: int = 64) -> np.ndarray:
        """Latents float32[..., C, h, w] -> uint8[..., H, W, 3], as the exported decoder gives them."""
        flat = latents.reshape(-1, *latents.shape[-3:])
        parts = [pictures_to_uint8(self.autoencoder.decode(_channels_last(part))) for part in flat.split(batch)]
        frames: np.ndarray = torch.cat(parts).contiguous().numpy()
        return frames.reshape(*latents.shape[:-3], *frames.shape[1:])


def load_trained(config: TrainConfig, runs: Path, checkpoint: str = FINISHED, seed: int | None = None) -> TrainedWorld:
    """Read a checkpoint of the run of a recipe, or of its branch with another `seed`, and the autoencoder.

    `checkpoint` is `generator` (the finished run, with its heads and calibrations) or a stage that trains a generator
    (`teacher`, `consistency`, `distillation`): its averaged weights, finished or not; branches share the first two.
    Raises FileNotFoundError or ValueError.
    """
    base, own = run_folder(config, runs), run_folder(config, runs, seed)
    if checkpoint == FINISHED:
        result = load_result(config, Path(runs), seed)
        assert result.generator is not None
        world = _frozen(result.generator, result.autoencoder, result.levels, own / f"{checkpoint}.pt")
        for head in result.heads.values():
            head.requires_grad_(False)
        return replace(
            world,
            calibration=result.calibration,
            heads=result.heads,
            calibrations=result.calibrations,
            kept=result.kept,
        )
    path = (base if checkpoint in BASE_STAGES else own) / f"{checkpoint}.pt"
    autoencoder, generator = Autoencoder(config.autoencoder.model), Generator(config.teacher.model)
    _load_average(autoencoder, base / "autoencoder.pt")
    _load_average(generator, path)
    return _frozen(generator, autoencoder, config.schedule.levels, path)


def _frozen(generator: Generator, autoencoder: Autoencoder, levels: tuple[float, ...], path: Path) -> TrainedWorld:
    return TrainedWorld(
        generator.eval().requires_grad_(False),
        autoencoder.to(memory_format=torch.channels_last).eval().requires_grad_(False),
        levels,
        checkpoint_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def _load_average(model: torch.nn.Module, path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint; `python -m exporters train` writes it")
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["parts"]["average"]["values"])
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{path}: not the averaged weights of this recipe's model ({error})") from None


def _channels_last(pictures: Tensor) -> Tensor:
    return pictures.contiguous(memory_format=torch.channels_last)
