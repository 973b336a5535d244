"""TrainConfig: one world's whole recipe, read from a TOML file."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import dacite

from exporters.evaluation.config import EvaluationConfig
from exporters.model.flow import schedule_levels
from exporters.recording.record import RecordConfig
from exporters.training.autoencoder import AutoencoderTraining
from exporters.training.calibration import CalibrationTraining
from exporters.training.confidence import ConfidenceTraining
from exporters.training.consistency import ConsistencyTraining
from exporters.training.distillation import DistillationTraining
from exporters.training.teacher import TeacherTraining

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Schedule:
    """The denoising schedule: the noise level of each step, from 1 down. The default is the paper's."""

    levels: tuple[float, ...] = schedule_levels(4, 5.0)

    def __post_init__(self) -> None:
        falls = all(a > b for a, b in pairwise((*self.levels, 0.0)))
        if not self.levels or self.levels[0] != 1.0 or not falls:
            raise ValueError(f"schedule.levels: must fall from 1.0 and stay above 0, got {list(self.levels)}")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that recording and training a world needs. Missing tables take the defaults of their classes."""

    name: str
    dataset: str
    """Folder of the episode dataset."""
    description: str = ""
    version: str = "0.1.0"
    card: str = ""
    """Path of the card's text; empty for a minimal one."""
    contexts: int = 16
    """Start contexts in the package, from the validation split."""
    seed: int = 0
    recording: RecordConfig = field(default_factory=RecordConfig)
    schedule: Schedule = field(default_factory=Schedule)
    autoencoder: AutoencoderTraining = field(default_factory=AutoencoderTraining)
    teacher: TeacherTraining = field(default_factory=TeacherTraining)
    consistency: ConsistencyTraining = field(default_factory=ConsistencyTraining)
    distillation: DistillationTraining = field(default_factory=DistillationTraining)
    confidence: ConfidenceTraining = field(default_factory=ConfidenceTraining)
    calibration: CalibrationTraining = field(default_factory=CalibrationTraining)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


def load_config(path: Path) -> TrainConfig:
    """Read a TOML recipe; unknown or ill-typed keys raise ValueError that names them."""
    with open(path, "rb") as file:
        table = tomllib.load(file)
    try:
        return dacite.from_dict(TrainConfig, table, dacite.Config(strict=True, cast=[tuple, float]))
    except (dacite.DaciteError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error
