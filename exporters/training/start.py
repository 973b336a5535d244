"""Start: the models of an existing world, from which a run goes on instead of from random weights."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from exporters.model.autoencoder import Autoencoder
from exporters.model.generator import Generator
from exporters.training.branch import run_folder
from exporters.training.config import TrainConfig
from exporters.training.optimizer import transformer_optimizers
from exporters.training.stage import CHAIN, Average, Stage

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

    From there the run goes on as any other, also if it is stopped. The folder appears whole or not at all: it is
    written beside its place and renamed. An empty folder there is replaced.
    """
    torch.manual_seed(config.seed * 1000 + 1)  # the teacher's own, see `run`
    teacher = Generator(config.teacher.model)
    kept = {k: v for k, v in start.generator.state_dict().items() if not k.startswith("confidence.")}
    teacher.load_state_dict({**teacher.state_dict(), **kept})
    autoencoder = Autoencoder(config.autoencoder.model)
    autoencoder.load_state_dict(start.autoencoder.state_dict())
    adam = torch.optim.AdamW(autoencoder.parameters(), lr=config.autoencoder.learning_rate)
    folder = folder.resolve()  # a link to another disk stays one
    scratch = folder.with_name(f".start-{folder.name}")
    shutil.rmtree(scratch, ignore_errors=True)  # of a start that was killed
    scratch.mkdir(parents=True)
    try:
        parts: dict[str, Any] = {
            "model": teacher,
            "optimizers": transformer_optimizers(teacher, config.teacher.learning_rate),
            "average": Average(teacher, config.teacher.average),
        }
        Stage("teacher", scratch, config.teacher.budget, parts).save()
        parts = {"model": autoencoder, "optimizer": adam, "average": Average(autoencoder, 0.0)}
        Stage("autoencoder", scratch, config.autoencoder.budget, parts, done=True).save()
        (scratch / START_FILE).write_text(json.dumps(start.origin, indent=1) + "\n", encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        os.replace(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_start(config: TrainConfig, runs: Path, seed: int | None = None) -> None:
    """Raise ValueError if the run has begun, or is a branch: such a one begins with the base run's models."""
    folder = run_folder(config, runs)
    if run_folder(config, runs, seed) != folder:
        raise ValueError("start: a branch begins with the base run's models; give --from or --seed, not both")
    old = sorted(path.name for path in folder.glob("*.pt")) or sorted(path.name for path in folder.glob("*"))
    if old:
        raise ValueError(
            f"start: {folder} holds {', '.join(old)} already; leave --from out to go on with that run,"
            " or move the folder away to begin anew"
        )


def check_whole(folder: Path) -> None:
    """Raise ValueError if a run has its later stages without the autoencoder that they were trained on."""
    later = [stage for stage in CHAIN[1:] if (folder / f"{stage}.pt").exists()]
    if later and not (folder / f"{CHAIN[0]}.pt").exists():
        raise ValueError(
            f"{folder}: {later[0]}.pt lies there without {CHAIN[0]}.pt, on which it was trained; put that back,"
            " or move the folder away to begin anew"
        )


def read_origin(folder: Path) -> dict[str, str] | None:
    """Where the run in `folder` started from, or None if from random weights."""
    path = folder / START_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
