"""TrainedWorld: the models that an evaluation plays, read from a training run's checkpoints."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..model.autoencoder import Autoencoder, pictures_to_float, pictures_to_uint8
from ..model.generator import Generator
from ..training.config import TrainConfig
from ..training.run import load_result

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


def load_trained(config: TrainConfig, runs: Path, checkpoint: str = FINISHED) -> TrainedWorld:
    """Read `runs/<name>/<checkpoint>.pt` and the autoencoder beside it.

    `checkpoint` is `generator` (the finished run, with its calibration) or a stage that trains a generator (`teacher`,
    `consistency`, `distillation`): its averaged weights, finished or not. Raises FileNotFoundError or ValueError.
    """
    path = Path(runs) / config.name / f"{checkpoint}.pt"
    if checkpoint == FINISHED:
        result = load_result(config, Path(runs))
        assert result.generator is not None
        return _frozen(result.generator, result.autoencoder, result.levels, result.calibration, path)
    autoencoder, generator = Autoencoder(config.autoencoder.model), Generator(config.teacher.model)
    _load_average(autoencoder, path.with_name("autoencoder.pt"))
    _load_average(generator, path)
    levels = config.schedule.levels
    return _frozen(generator, autoencoder, levels, None, path)


def _frozen(
    generator: Generator,
    autoencoder: Autoencoder,
    levels: tuple[float, ...],
    calibration: Mapping[str, Any] | None,
    path: Path,
) -> TrainedWorld:
    return TrainedWorld(
        generator.eval().requires_grad_(False),
        autoencoder.to(memory_format=torch.channels_last).eval().requires_grad_(False),
        levels,
        calibration,
        hashlib.sha256(path.read_bytes()).hexdigest(),
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
