"""Start: the models of an existing world, from which a run goes on instead of from random weights."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from exporters.model.autoencoder import Autoencoder
from exporters.model.generator import Generator
from exporters.training.branch import run_folder
from exporters.training.config import TrainConfig
from exporters.training.optimizer import transformer_optimizers
from exporters.training.stage import Average, Stage

START_FILE = "start.json"


@dataclass(frozen=True)
class Start:
    """A finished autoencoder, and the initial weights of the teacher."""

    autoencoder: Autoencoder
    generator: Generator
    """Its confidence head is not used: nothing is known about that of a world that is yet to be trained."""
    origin: dict[str, str]
    """Where they come from, for the provenance of what becomes of them."""


def place_start(start: Start, config: TrainConfig, folder: Path) -> None:
    """Write `start` into the folder of a run, as checkpoints of a finished autoencoder and of a teacher before step 0.

    From there the run goes on as any other, also if it is stopped.
    """
    torch.manual_seed(config.seed * 1000 + 1)  # the teacher's own, see `run`
    teacher = Generator(config.teacher.model)
    kept = {k: v for k, v in start.generator.state_dict().items() if not k.startswith("confidence.")}
    teacher.load_state_dict({**teacher.state_dict(), **kept})
    autoencoder = Autoencoder(config.autoencoder.model)
    autoencoder.load_state_dict(start.autoencoder.state_dict())
    adam = torch.optim.AdamW(autoencoder.parameters(), lr=config.autoencoder.learning_rate)
    budget = config.autoencoder.budget
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".start-") as name:
        scratch = Path(name)
        parts: dict[str, Any] = {
            "model": teacher,
            "optimizers": transformer_optimizers(teacher, config.teacher.learning_rate),
            "average": Average(teacher, config.teacher.average),
        }
        Stage("teacher", scratch, config.teacher.budget, parts).save()
        parts = {"model": autoencoder, "optimizer": adam, "average": Average(autoencoder, 0.0)}
        spent = Stage("autoencoder", scratch, budget, parts, step=budget.steps or 0, seconds=60 * (budget.minutes or 0))
        spent.save()
        (scratch / START_FILE).write_text(json.dumps(start.origin, indent=1) + "\n", encoding="utf-8")
        for file in (START_FILE, "teacher.pt", "autoencoder.pt"):
            os.replace(scratch / file, folder / file)


def check_start(config: TrainConfig, runs: Path, seed: int | None = None) -> None:
    """Raise ValueError if the run has begun, or is a branch: such a one begins with the base run's models."""
    folder = run_folder(config, runs)
    if run_folder(config, runs, seed) != folder:
        raise ValueError("start: a branch begins with the base run's models; give --start or --seed, not both")
    if old := sorted(path.name for path in folder.glob("*.pt")):
        raise ValueError(
            f"start: {folder} holds {', '.join(old)} already; leave --start out to go on with that run,"
            " or move the folder away to begin anew"
        )


def read_origin(folder: Path) -> dict[str, str] | None:
    """Where the run in `folder` started from, or None if from random weights."""
    path = folder / START_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
