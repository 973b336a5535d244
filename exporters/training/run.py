"""The staged run: every stage of the recipe in order, each resumable, each with its gate."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from exporters.model.autoencoder import Autoencoder
from exporters.model.confidence import ConfidenceHead
from exporters.model.generator import Generator
from exporters.model.lpips import Lpips, LpipsUnavailable, PictureDistance
from exporters.training.autoencoder import train_autoencoder
from exporters.training.branch import BASE_STAGES, Base, load_base, run_folder
from exporters.training.calibration import run_calibration
from exporters.training.confidence import ConfidenceTraining, train_confidence
from exporters.training.config import TrainConfig
from exporters.training.consistency import train_consistency
from exporters.training.data import Clips, encode_clips
from exporters.training.distillation import train_distillation
from exporters.training.distributed import Ranks
from exporters.training.progress import RunProgress
from exporters.training.start import Start, check_start, check_whole, place_start, read_origin
from exporters.training.teacher import train_teacher

STAGES = ("autoencoder", "teacher", "consistency", "distillation", "confidence", "calibration")
SHARED_STAGES = STAGES[:4]
"""Trained by all ranks together; the rest takes minutes and runs on rank 0."""


@dataclass
class Trained:
    """What a finished (or partly finished) run has made. Later members are None before their stage."""

    levels: tuple[float, ...]
    autoencoder: Autoencoder
    gates: dict[str, object]
    teacher: Generator | None = None
    student: Generator | None = None
    generator: Generator | None = None
    gain_head: ConfidenceHead | None = None
    """The second head of the distillation ("joint-gain"); the generator's own is "joint-residual"."""
    heads: dict[str, ConfidenceHead] = field(default_factory=dict)
    """All confidence heads by name; the generator's own is a copy of `kept`."""
    kept: str | None = None
    calibrations: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Calibration tables by head."""
    calibration: dict[str, Any] | None = None
    """That of the kept head, with its risk bounds."""
    seed: int = 0


def run_training(
    config: TrainConfig,
    runs: Path,
    device: torch.device,
    until: str = STAGES[-1],
    start: Start | None = None,
    seed: int | None = None,
) -> Trained:
    """Run all stages up to `until`; finished ones are loaded, a half-done one goes on from its checkpoint.

    start   models to begin with, for a run that has no checkpoints yet
    seed    another than the recipe's is a `branch` of the base run, whose shared stages must have finished

    Of several ranks (`distributed`) the first returns the whole result, the others what they helped to train.
    """
    if until not in STAGES:
        raise ValueError(f"until: {until!r} is not a stage; choose from {', '.join(STAGES)}")
    for stage in SHARED_STAGES:
        Ranks.current().divide(getattr(config, stage).batch, f"{stage}.batch")
    base, own, dataset = run_folder(config, runs), run_folder(config, runs, seed), Path(config.dataset)
    number = config.seed if seed is None else seed
    shared: Base | None = None
    if start is not None:
        check_start(config, runs, seed)
    if own == base:
        Ranks.current().from_first(lambda: check_whole(base))
    else:
        if until in BASE_STAGES:
            raise ValueError(f"until: a branch takes {until!r} from the base run; choose a later stage")
        shared = load_base(config, runs, device)
    width = config.teacher.model.action_width
    train, validation = Clips.load(dataset, "train", width), Clips.load(dataset, "validation", width)
    own.mkdir(parents=True, exist_ok=True)
    if start is not None:
        place_start(start, config, base)
    levels = config.schedule.levels
    last = STAGES.index(until)

    def begin(stage: str) -> None:
        torch.manual_seed(number * 1000 + STAGES.index(stage))
        print(f"== {stage}{RunProgress.current().place(stage)}", flush=True)

    def gate(stage: str, values: object) -> None:
        result.gates[stage] = values
        print(f"== {stage} gate: {json.dumps(values)}", flush=True)

    origin = Ranks.current().from_first(lambda: read_origin(base))
    gates: dict[str, object] = {} if origin is None else {"start": origin}

    def encode(autoencoder: Autoencoder) -> None:
        for name, clips in (("train", train), ("validation", validation)):
            encode_clips(clips, autoencoder, base / f"latents-{name}.pt")

    if shared is not None:
        gates.update(shared.gates)
        result = Trained(levels, shared.autoencoder, gates, shared.teacher, shared.student, seed=number)
        encode(result.autoencoder)
    else:
        begin("autoencoder")
        autoencoder, values = train_autoencoder(config.autoencoder, base, train, validation, device)
        result = Trained(levels, autoencoder, gates, seed=number)
        gate("autoencoder", values)
        if last == 0:
            return result
        encode(autoencoder)

        begin("teacher")
        result.teacher, values = train_teacher(config.teacher, base, train, validation, device)
        gate("teacher", values)
        if last == 1:
            return result

        begin("consistency")
        result.student, values = train_consistency(config.consistency, base, result.teacher, train, validation)
        gate("consistency", values)
        if last == 2:
            return result

    assert result.teacher is not None and result.student is not None
    begin("distillation")
    result.generator, result.gain_head, values = train_distillation(
        config.distillation, levels, own, result.teacher, result.student, result.autoencoder, train, validation
    )
    result.seed = Ranks.current().from_first(lambda: _trained_seed(own / "distillation.pt", number))
    gate("distillation", values)
    if last == 3 or not Ranks.current().leave():
        return result

    begin("confidence")
    perceptual = perceptual_distance(config.confidence)
    fit = train_confidence(
        config.confidence,
        levels,
        own,
        result.generator,
        result.gain_head,
        result.student.confidence,
        result.teacher,
        result.autoencoder,
        train,
        validation,
        perceptual,
    )
    result.generator, result.heads, result.kept = fit.generator, fit.heads, fit.kept
    gate("confidence", fit.gate)
    if last == 4:
        return result

    begin("calibration")
    test = Clips.load(dataset, "test", width)
    encode_clips(test, result.autoencoder)
    result.calibrations, checked = run_calibration(
        config.calibration,
        levels,
        own,
        fit.generator,
        fit.heads,
        fit.kept,
        result.autoencoder,
        validation,
        test,
        perceptual,
    )
    result.calibration = result.calibrations[fit.kept]
    gate("calibration", checked)
    save_result(own / "generator.pt", result)
    return result


def perceptual_distance(config: ConfidenceTraining) -> PictureDistance | None:
    """The one that the recipe asks for; None, with a line that says so, where its weights cannot be had."""
    if config.perceptual == "none":
        return None
    try:
        return Lpips.load()
    except LpipsUnavailable as reason:
        print(f"no perceptual distance, so no head learns what a step is worth to the eye: {reason}", flush=True)
        return None


def _trained_seed(checkpoint: Path, number: int) -> int:
    """The seed that a stage began with: not the recipe's `number` if that has changed since."""
    if not checkpoint.exists():  # of a budget of nothing
        return number
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    return int(saved["seed"]) // 1000 if "seed" in saved else number  # `begin` seeds the stages


def save_result(path: Path, result: Trained) -> None:
    """Write the finished generator, its levels, calibration and gates, for packaging and evaluation."""
    assert result.generator is not None
    state = {
        "generator": result.generator.state_dict(),
        "levels": list(result.levels),
        "heads": {name: head.state_dict() for name, head in result.heads.items()},
        "kept": result.kept,
        "calibrations": result.calibrations,
        "calibration": result.calibration,
        "gates": result.gates,
        "seed": result.seed,
    }
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def load_result(config: TrainConfig, runs: Path, seed: int | None = None) -> Trained:
    """The finished run of a recipe, or the branch of a seed, in eval mode on the CPU.

    Raises FileNotFoundError if it has not finished.
    """
    path = run_folder(config, runs, seed) / "generator.pt"
    if not path.exists():
        raise FileNotFoundError(f"{path}: the run has not finished; run `python -m exporters train` first")
    saved = torch.load(path, map_location="cpu", weights_only=True)
    autoencoder = Autoencoder(config.autoencoder.model)
    autoencoder_path = run_folder(config, runs) / "autoencoder.pt"
    checkpoint = torch.load(autoencoder_path, map_location="cpu", weights_only=True)
    try:
        autoencoder.load_state_dict(checkpoint["parts"]["average"]["values"])
    except RuntimeError as error:
        raise ValueError(
            f"{autoencoder_path}: not the model of this recipe's [autoencoder.model] ({_line(error)})"
        ) from None
    generator = Generator(config.teacher.model)
    try:
        generator.load_state_dict(saved["generator"])
    except RuntimeError as error:
        raise ValueError(f"{path}: not the model of this recipe's [teacher.model] ({_line(error)})") from None
    heads = {}
    for name, state in saved.get("heads", {}).items():
        heads[name] = copy.deepcopy(generator.confidence).eval()
        heads[name].load_state_dict(state)
    return Trained(
        tuple(saved["levels"]),
        autoencoder.eval(),
        saved["gates"],
        generator=generator.eval(),
        heads=heads,
        kept=saved.get("kept"),
        calibrations=saved.get("calibrations", {}),
        calibration=saved["calibration"],
        seed=saved.get("seed", config.seed if seed is None else seed),
    )


def _line(error: Exception) -> str:
    """A long message in one short line."""
    return " ".join(str(error).split())[:200]
