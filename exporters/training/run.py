"""The staged run: every stage of the recipe in order, each resumable, each with its gate."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from exporters.model.autoencoder import Autoencoder
from exporters.model.generator import Generator
from exporters.training.autoencoder import train_autoencoder
from exporters.training.calibration import run_calibration
from exporters.training.confidence import train_confidence
from exporters.training.config import TrainConfig
from exporters.training.consistency import train_consistency
from exporters.training.data import Clips, encode_clips
from exporters.training.distillation import train_distillation
from exporters.training.teacher import train_teacher

STAGES = ("autoencoder", "teacher", "consistency", "distillation", "confidence", "calibration")


@dataclass
class Trained:
    """What a finished (or partly finished) run has made. Later members are None before their stage."""

    levels: tuple[float, ...]
    autoencoder: Autoencoder
    gates: dict[str, object]
    teacher: Generator | None = None
    student: Generator | None = None
    generator: Generator | None = None
    calibration: dict[str, object] | None = None


def run_training(config: TrainConfig, runs: Path, device: torch.device, until: str = STAGES[-1]) -> Trained:
    """Run all stages up to `until`; finished ones are loaded, a half-done one goes on from its checkpoint."""
    if until not in STAGES:
        raise ValueError(f"until: {until!r} is not a stage; choose from {', '.join(STAGES)}")
    folder, dataset = runs / config.name, Path(config.dataset)
    folder.mkdir(parents=True, exist_ok=True)
    width = config.teacher.model.action_width
    train, validation = Clips.load(dataset, "train", width), Clips.load(dataset, "validation", width)
    levels = config.schedule.levels
    last = STAGES.index(until)

    def begin(stage: str) -> None:
        torch.manual_seed(config.seed * 1000 + STAGES.index(stage))
        print(f"== {stage}", flush=True)

    def gate(stage: str, values: object) -> None:
        result.gates[stage] = values
        print(f"== {stage} gate: {json.dumps(values)}", flush=True)

    begin("autoencoder")
    autoencoder, values = train_autoencoder(config.autoencoder, folder, train, validation, device)
    result = Trained(levels, autoencoder, {})
    gate("autoencoder", values)
    if last == 0:
        return result
    for name, clips in (("train", train), ("validation", validation)):
        encode_clips(clips, autoencoder, folder / f"latents-{name}.pt")

    begin("teacher")
    result.teacher, values = train_teacher(config.teacher, folder, train, validation, device)
    gate("teacher", values)
    if last == 1:
        return result

    begin("consistency")
    result.student, values = train_consistency(config.consistency, folder, result.teacher, train, validation)
    gate("consistency", values)
    if last == 2:
        return result

    begin("distillation")
    result.generator, values = train_distillation(
        config.distillation, levels, folder, result.teacher, result.student, train, validation
    )
    gate("distillation", values)
    if last == 3:
        return result

    begin("confidence")
    result.generator, fitted = train_confidence(
        config.confidence, levels, folder, result.generator, autoencoder, train, validation
    )
    gate("confidence", fitted)
    if last == 4:
        return result

    begin("calibration")
    test = Clips.load(dataset, "test", width)
    encode_clips(test, autoencoder)
    result.calibration, checked = run_calibration(
        config.calibration, levels, folder, result.generator, autoencoder, validation, test
    )
    gate("calibration", checked)
    save_result(folder / "generator.pt", result)
    return result


def save_result(path: Path, result: Trained) -> None:
    """Write the finished generator, its levels, calibration and gates, for packaging and evaluation."""
    assert result.generator is not None
    state = {
        "generator": result.generator.state_dict(),
        "levels": list(result.levels),
        "calibration": result.calibration,
        "gates": result.gates,
    }
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def load_result(config: TrainConfig, runs: Path) -> Trained:
    """The finished run of a recipe, in eval mode on the CPU. Raises FileNotFoundError if it has not finished."""
    folder = runs / config.name
    if not (folder / "generator.pt").exists():
        raise FileNotFoundError(
            f"{folder}/generator.pt: the run has not finished; run `python -m exporters train` first"
        )
    saved = torch.load(folder / "generator.pt", weights_only=True)
    autoencoder = Autoencoder(config.autoencoder.model)
    checkpoint = torch.load(folder / "autoencoder.pt", weights_only=True)
    autoencoder.load_state_dict(checkpoint["parts"]["average"]["values"])
    generator = Generator(config.teacher.model)
    generator.load_state_dict(saved["generator"])
    return Trained(
        tuple(saved["levels"]),
        autoencoder.eval(),
        saved["gates"],
        generator=generator.eval(),
        calibration=saved["calibration"],
    )
