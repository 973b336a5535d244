"""What the commands of `python -m exporters` do."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import json
import time
from pathlib import Path

import torch

from dsa_runtime.package import open_package
from dsa_runtime.spec import SPEC_FILE, ScheduleSpec
from exporters.importers.arrays import read_array
from exporters.importers.confidence_file import write_confidence
from exporters.importers.post_hoc import PostHocTraining, train_post_hoc
from exporters.importers.prompts import read_prompts
from exporters.importers.self_forcing import LEVELS, read_generator
from exporters.importers.wan_vae import read_wan_vae
from exporters.model.lpips import Lpips, LpipsUnavailable
from exporters.model.wan.config import WanConfig
from exporters.package_checkpoint import package_checkpoint, print_package
from exporters.packaging.clips import longest_everywhere, pick_clips
from exporters.packaging.describe import action_space, calibration_spec, frame_spec
from exporters.packaging.recover import recover_generator
from exporters.packaging.recover_autoencoder import recover_autoencoder
from exporters.packaging.reexport import reexport_package
from exporters.packaging.verify import verify_package
from exporters.packaging.write import WorldDescription, write_package
from exporters.provenance import command_line, commit
from exporters.recording.dataset import Dataset
from exporters.training.branch import BASE_STAGES, run_folder
from exporters.training.config import TrainConfig, load_config
from exporters.training.distributed import Ranks
from exporters.training.progress import RunProgress
from exporters.training.run import STAGES, Trained, load_result, run_training
from exporters.training.small_decoder import SmallDecoderTraining, train_small_decoder
from exporters.training.stage import Budget
from exporters.training.start import Start, check_start

__all__ = [
    "confidence", "package", "package_checkpoint", "reexport", "small_decoder", "train", "verify",
]  # fmt: skip


def train(options: argparse.Namespace) -> int:
    """Run the recipe; with --package, write the world as well."""
    config = load_config(options.config)
    until = options.until or STAGES[-1]
    if options.package is not None and until != STAGES[-1]:
        raise ValueError(f"package: after --until {until} there is nothing to package yet; leave one of the two out")
    check_device(options.device)
    with Ranks.join(options.device, options.shard) as ranks:
        start = None
        if options.start is not None and ranks.first:
            check_start(config, options.runs, options.seed)
            start = read_start(options.start, config)
        began = time.monotonic()
        with run_progress(config, options.runs, until, options.seed).shown():
            run_training(config, options.runs, ranks.device, until, start, options.seed)
        if ranks.first:
            print(f"== trained up to {until} in {(time.monotonic() - began) / 60:.1f} min", flush=True)
        if options.package is not None and ranks.first:
            write(config, load_result(config, options.runs, options.seed), options.package)
    return 0


def run_progress(config: TrainConfig, runs: Path, until: str, seed: int | None) -> RunProgress:
    """The stages that a run goes through; a branch begins after those of the base run."""
    branch = run_folder(config, runs, seed) != run_folder(config, runs)
    stages = STAGES[len(BASE_STAGES) * branch : STAGES.index(until) + 1] if until in STAGES else ()
    return RunProgress({stage: getattr(getattr(config, stage), "budget", None) for stage in stages})


def check_device(name: str | None) -> None:
    """Raise ValueError if torch has no such device here."""
    if name is None:
        return
    try:
        device = torch.device(name)
        if device.type != "cuda":  # which would take memory on the first GPU
            torch.empty(0, device=device)
        elif not torch.cuda.is_available():
            raise RuntimeError("torch finds no CUDA GPU")
        elif (device.index or 0) >= torch.cuda.device_count():
            raise RuntimeError(f"torch finds {torch.cuda.device_count()} CUDA GPUs")
    except (RuntimeError, AssertionError, ImportError) as error:
        raise ValueError(f"device: {name!r} cannot be used here ({str(error).splitlines()[0]})") from None


def read_start(folder: Path, config: TrainConfig) -> Start:
    """The models of a world package, if they have the shapes of this recipe."""
    with open_package(folder) as source:
        spec = source.spec
        digest = hashlib.sha256(source.path(SPEC_FILE).read_bytes()).hexdigest()
        origin = {"name": spec.name, "version": spec.version, "world.json_sha256": digest}
        generator = recover_generator(source, config.teacher.model)
        return Start(recover_autoencoder(source, config.autoencoder.model), generator, origin)


def package(options: argparse.Namespace) -> int:
    """Write the package of a finished run."""
    config = load_config(options.config)
    write(config, load_result(config, options.runs, options.seed), options.folder)
    return 0


def verify(options: argparse.Namespace) -> int:
    """Compare a package in ONNX Runtime with the run's torch modules; status 1 if they disagree."""
    config = load_config(options.config)
    trained = load_result(config, options.runs, options.seed)
    assert trained.generator is not None
    dataset = Path(config.dataset)
    # Clips of 64 frames, or as long as worlds that are often reset have them.
    room = longest_everywhere(Dataset(dataset), "test") - trained.generator.config.window - 1
    clip_frames = max(1, min(64, options.frames, room))
    result = verify_package(
        options.package,
        trained.generator,
        trained.autoencoder,
        dataset,
        frames=options.frames,
        clip_frames=clip_frames,
    )
    print(result.to_json() if options.json else result.table())
    return 0 if result.passed else 1


def reexport(options: argparse.Namespace) -> int:
    """Write a package's graphs again from its own weights."""
    config = load_config(options.config)
    result = reexport_package(options.package, config.teacher.model, {"command": command_line(), "commit": commit()})
    for file, change in result.files.items():
        print(f"{file}: {change}")
    for graph, difference in result.plain.items():
        print(f"{graph}: plain form before and after at most {difference.largest:.2g} apart")
    print(f"forms run: {', '.join(result.forms)}")
    return 0


def confidence(options: argparse.Namespace) -> int:
    """Fit a head to a frozen generator of others, calibrate it, and write it beside the checkpoint."""
    check_device(options.device)
    given = {field.name: getattr(options, field.name, None) for field in dataclasses.fields(PostHocTraining)}
    settings = PostHocTraining(**{name: value for name, value in given.items() if value is not None})
    levels = LEVELS if options.levels is None else _levels(options.levels)
    if options.height % 16 or options.width % 16:
        raise ValueError(f"height and width must be multiples of 16, got {options.height}x{options.width}")
    played = WanConfig(
        chunk=options.chunk, window=options.window, latent_height=options.height // 8, latent_width=options.width // 8
    )
    torch.manual_seed(settings.seed)  # of the head's first weights
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    generator = read_generator(options.checkpoint, options.weights, played, getattr(torch, options.dtype)).to(device)
    if bool(generator.config.text_width) != (options.prompts is not None):
        needs = "takes text: give --prompts" if generator.config.text_width else "takes no text: leave --prompts out"
        raise ValueError(f"prompts: this model {needs}")
    prompts = None if options.prompts is None else read_prompts(options.prompts, generator.config)
    fitted = train_post_hoc(settings, levels, generator, prompts)
    provenance = {"checkpoint": options.checkpoint.name, "command": command_line(), "commit": commit()}
    files = write_confidence(options.checkpoint, generator, levels, fitted, provenance)
    ranks = ", ".join(f"{value:.2f}" for value in fitted.gate["rank_correlation"])
    error = fitted.gate["reliability"]["expected_calibration_error"]
    print(f"rank correlation with what the remaining steps change: {ranks}; calibration error {error:.3f}")
    for file in files:
        print(file)
    return 0


def _levels(text: str) -> tuple[float, ...]:
    try:
        levels = tuple(float(part) for part in text.split(","))
    except ValueError:
        levels = ()
    if not levels or levels[0] != 1 or levels[-1] <= 0 or any(a <= b for a, b in itertools.pairwise(levels)):
        raise ValueError(f"levels: must fall from 1 towards 0, such as 1,0.9375,0.8333,0.625; got {text!r}")
    return levels


def small_decoder(options: argparse.Namespace) -> int:
    """Distil a light decoder from Wan's, on given latents."""
    check_device(options.device)
    budget = {"minutes": options.minutes, "steps": options.steps}
    if any(value is not None and not value > 0 for value in budget.values()):
        raise ValueError("minutes and steps must be above 0")
    given = any(value is not None for value in budget.values())
    settings = SmallDecoderTraining(budget=Budget(**budget)) if given else SmallDecoderTraining()
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    vae, latents = read_wan_vae(options.vae), read_array(options.latents)
    perceptual = load_lpips() if options.perceptual == "lpips" else None
    torch.manual_seed(0)
    _, gate = train_small_decoder(settings, options.out, vae, latents, device, perceptual)
    print(f"{options.out}: small_decoder.safetensors, gate {json.dumps(gate)}")
    return 0


def load_lpips() -> Lpips | None:
    """None, with a line that says so, where its weights cannot be had."""
    try:
        return Lpips.load()
    except LpipsUnavailable as reason:
        print(f"no perceptual distance, so the loss is the mean absolute error alone: {reason}", flush=True)
        return None


def write(config: TrainConfig, trained: Trained, folder: Path) -> None:
    """Export a finished run as a world package."""
    assert trained.generator is not None and trained.calibration is not None
    dataset = Dataset(Path(config.dataset))
    card = (
        Path(config.card).read_text(encoding="utf-8") if config.card else f"# {config.name}\n\n{config.description}\n"
    )
    description = WorldDescription(
        name=config.name,
        version=config.version,
        licence=dataset.spec.licence,
        description=config.description,
        frame=frame_spec(dataset.spec),
        action_space=action_space(dataset.spec),
        schedule=ScheduleSpec(levels=trained.levels, context_level=0.0),
        calibration=calibration_spec(trained.calibration),
        provenance={
            "source": dataset.spec.source,
            "recorded_frames": {name: split.frames for name, split in dataset.spec.splits.items()},
            "command": command_line(),
            "commit": commit(),
            "seed": trained.seed,
            "head": trained.kept,
            "gates": trained.gates,
        },
    )
    contexts = pick_clips(dataset, "validation", config.contexts, trained.generator.config.window, seed=config.seed)
    spec = write_package(folder, trained.generator, trained.autoencoder, description, contexts, card)
    print_package(folder, spec)
