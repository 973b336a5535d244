"""Branch: a run with another seed that shares the base run's autoencoder, teacher and few-step start.

What a confidence is worth shall not hang on one training. A branch repeats what makes and judges the confidence
(distillation, confidence, calibration) and takes the rest, hours of training, from the base run. It lies in `seed-S`
inside the base run's folder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from exporters.model.autoencoder import Autoencoder
from exporters.model.generator import Generator
from exporters.training.config import TrainConfig
from exporters.training.distributed import Ranks

BASE_STAGES = ("autoencoder", "teacher", "consistency")
"""What branches share."""


@dataclass(frozen=True)
class Base:
    """What a branch takes from the base run, in eval mode on one device."""

    autoencoder: Autoencoder
    teacher: Generator
    student: Generator
    gates: dict[str, object]


def run_folder(config: TrainConfig, runs: Path, seed: int | None = None) -> Path:
    """Where the stages of a seed are kept; those that branches share lie in that of the recipe's seed (None)."""
    base = Path(runs) / config.name
    if seed is None or seed == config.seed:
        return base
    if seed < 0:
        raise ValueError(f"seed: must be 0 or more, got {seed}")
    return base / f"seed-{seed}"


def load_base(config: TrainConfig, runs: Path, device: torch.device) -> Base:
    """The shared stages of the base run. Raises ValueError if one of them has not finished.

    The first rank reads them for all.
    """
    folder = run_folder(config, runs)
    saved = Ranks.current().from_first(lambda: {stage: _finished(config, folder, stage) for stage in BASE_STAGES})
    autoencoder = Autoencoder(config.autoencoder.model).to(device, memory_format=torch.channels_last)
    teacher, student = (Generator(config.teacher.model).to(device) for _ in range(2))
    for stage, model in zip(BASE_STAGES, (autoencoder, teacher, student), strict=True):
        try:
            model.load_state_dict(saved[stage])
        except RuntimeError as error:
            raise ValueError(f"{folder}/{stage}.pt: not the model of this recipe ({error})") from None
        model.eval()
    return Base(autoencoder, teacher, student, Ranks.current().from_first(lambda: _gates(folder)))


def _finished(config: TrainConfig, folder: Path, stage: str) -> dict[str, Any]:
    """The averaged weights of a stage that has used its budget up."""
    path = folder / f"{stage}.pt"
    advice = f"train the base run first: `python -m exporters train` without --seed, --until {BASE_STAGES[-1]}"
    if not path.exists():
        raise ValueError(f"{path}: no such checkpoint, and a branch shares it; {advice}")
    saved = torch.load(path, map_location="cpu", weights_only=True)
    share = getattr(config, stage).budget.fraction(saved["step"], saved["seconds"])
    if share < 1.0 and not saved.get("done", False):
        raise ValueError(
            f"{path}: {share:.0%} of its budget are used, and a branch shares the finished stage; {advice}"
        )
    weights: dict[str, Any] = saved["parts"]["average"]["values"]
    return weights


def _gates(folder: Path) -> dict[str, object]:
    """The last gate of every shared stage, from the base run's metrics."""
    gates = {}
    path = folder / "metrics.jsonl"
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:  # half a line, left by a kill
            continue
        if entry["stage"] in BASE_STAGES and "gate" in entry:
            gates[entry["stage"]] = entry["gate"]
    return gates
