"""The whole recipe at toy size: a square that the action moves. It must learn, stop anywhere, and go on."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("dacite")

from exporters.model.autoencoder import AutoencoderConfig  # noqa: E402
from exporters.model.generator import GeneratorConfig  # noqa: E402
from exporters.packaging.describe import calibration_spec  # noqa: E402
from exporters.recording.dataset import DatasetWriter  # noqa: E402
from exporters.recording.episode import Episode  # noqa: E402
from exporters.training.autoencoder import AutoencoderTraining, train_autoencoder  # noqa: E402
from exporters.training.calibration import CalibrationTraining  # noqa: E402
from exporters.training.confidence import ConfidenceFit, ConfidenceTraining, train_confidence  # noqa: E402
from exporters.training.config import Schedule, TrainConfig, load_config  # noqa: E402
from exporters.training.consistency import ConsistencyTraining  # noqa: E402
from exporters.training.data import Clips  # noqa: E402
from exporters.training.distillation import DistillationTraining  # noqa: E402
from exporters.training.risk import RiskTraining  # noqa: E402
from exporters.training.run import load_result, run_training  # noqa: E402
from exporters.training.stage import Budget, Stage  # noqa: E402
from exporters.training.teacher import TeacherTraining  # noqa: E402
from tests.tiny_trained import MeanDistance  # noqa: E402

CPU = torch.device("cpu")
MODEL = GeneratorConfig(
    latent_channels=4,
    latent_height=4,
    latent_width=4,
    action_width=3,
    dim=32,
    depth=2,
    heads=2,
    temporal_dims=8,
    window=3,
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32x32 pictures of a square; actions stay, left, right."""
    folder = tmp_path_factory.mktemp("squares")
    random = np.random.default_rng(0)
    writer = DatasetWriter.create(
        folder,
        name="squares",
        frame={"height": 32, "width": 32, "channels": 3, "fps": 10.0},
        action_space={"type": "Discrete", "n": 3, "names": ["stay", "left", "right"]},
        state=(),
        licence="CC0-1.0",
        source="a test",
    )
    for seed, split in enumerate(("train", "validation", "test")):
        for episode in range(3):
            actions = random.integers(0, 3, 80)
            place, frames = 8, []
            for action in [0, *actions]:
                place = int(np.clip(place + (0, -8, 8)[action], 0, 16))
                frame = np.full((32, 32, 3), 40, np.uint8)
                frame[8:24, place : place + 16] = (220, 120, 60)
                frames.append(frame)
            nothing = np.zeros(len(frames))
            taken = Episode(np.stack(frames), actions, nothing.astype(bool), nothing[1:].astype(np.float32))
            writer.add(split, taken, seed=10 * seed + episode)
    writer.finish()
    return folder


def toy(dataset: Path) -> TrainConfig:
    return TrainConfig(
        name="squares",
        dataset=str(dataset),
        schedule=Schedule((1.0, 0.8, 0.5)),
        autoencoder=AutoencoderTraining(
            AutoencoderConfig(latent_channels=4, widths=(8, 16, 16), decoder_blocks=1),
            Budget(steps=250),
            batch=16,
            learning_rate=4e-3,
        ),
        teacher=TeacherTraining(MODEL, Budget(steps=40), batch=8, clip=6, compiled=False),
        consistency=ConsistencyTraining(Budget(steps=6), batch=4, clip=6, levels=8, compiled=False),
        distillation=DistillationTraining(Budget(steps=4), batch=4, frames=3, longest=6, critic_updates=1),
        confidence=ConfidenceTraining(
            rollouts=2,
            frames=3,
            heldout_rollouts=2,
            budget=Budget(steps=20),
            batch=32,
            recorded_rollouts=1,
            recorded_heldout_rollouts=1,
        ),
        calibration=CalibrationTraining(rollouts=4, frames=4, risk=RiskTraining(rollouts=6, frames=2, candidates=3)),
    )


@pytest.fixture(scope="module")
def with_autoencoder(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of the toy recipe whose first stage has finished; tests go on in a copy."""
    runs = tmp_path_factory.mktemp("runs")
    run_training(toy(dataset), runs, CPU, until="autoencoder")
    return runs


@pytest.fixture
def runs(with_autoencoder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(with_autoencoder, tmp_path / "runs")


def test_every_stage_runs_and_a_second_run_changes_nothing(
    dataset: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, handed = toy(dataset), []

    def observed(*arguments: Any, **options: Any) -> ConfidenceFit:
        handed.extend(arguments)
        return train_confidence(*arguments, **options)

    monkeypatch.setattr("exporters.training.run.train_confidence", observed)
    monkeypatch.setattr("exporters.training.run.perceptual_distance", lambda _: MeanDistance())
    first = run_training(config, runs, CPU)
    # All heads start from the same weights: those that the teacher began with, which no stage has touched.
    assert first.teacher is not None and first.student is not None
    assert any(x is first.student.confidence for x in handed)
    for name, value in first.student.confidence.state_dict().items():
        assert torch.equal(value, first.teacher.confidence.state_dict()[name]), name
    assert first.calibration is not None and first.generator is not None
    assert 0 <= first.calibration["default_threshold"] <= 1
    assert set(first.gates) == {"autoencoder", "teacher", "consistency", "distillation", "confidence", "calibration"}
    loaded = load_result(config, runs)
    assert loaded.generator is not None and loaded.levels == first.levels
    heads = {"joint-residual", "joint-gain", "post-hoc-residual", "post-hoc-gain", "post-hoc-worth"}
    assert set(loaded.heads) == set(loaded.calibrations) == heads and loaded.kept in heads
    assert loaded.calibration == loaded.calibrations[loaded.kept] == first.calibration
    spec = calibration_spec(loaded.calibration)
    assert len(spec.bounds) == 6 and spec.delta_by_step == tuple(loaded.calibration["delta_by_step"]) == spec.deltas
    bounds = loaded.calibration["bounds"]  # six rollouts prove nothing, so all of them are the full schedule
    assert [(row["alpha"], row["threshold"]) for row in bounds] == [(0.01, 1.0), (0.05, 1.0), (0.1, 1.0)] * 2
    for name, value in first.generator.state_dict().items():
        assert torch.equal(value, loaded.generator.state_dict()[name]), name
    before = (runs / "squares" / "distillation.pt").stat().st_mtime_ns
    run_training(config, runs, CPU, until="distillation")
    assert (runs / "squares" / "distillation.pt").stat().st_mtime_ns == before


def test_no_stage_hands_on_what_it_has_compiled(dataset: Path, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Later stages play the models in forms that the compiler was not asked for, and that it may not manage."""
    compiled: list[torch.nn.Module] = []
    for stage in ("teacher", "consistency"):
        monkeypatch.setattr(f"exporters.training.{stage}.compile_blocks", compiled.append)
    config = toy(dataset)
    config = replace(
        config,
        teacher=replace(config.teacher, compiled=True, budget=Budget(steps=2)),
        consistency=replace(config.consistency, compiled=True, budget=Budget(steps=2)),
    )
    result = run_training(config, runs, CPU, until="distillation")
    assert len(compiled) == 4
    for model in (result.teacher, result.student, result.generator):
        assert all(model is not other for other in compiled)


def test_the_teacher_learns_what_the_action_does(dataset: Path, runs: Path) -> None:
    config = replace(toy(dataset), teacher=TeacherTraining(MODEL, Budget(steps=400), batch=8, clip=6, compiled=False))
    gate = run_training(config, runs, CPU, until="teacher").gates["teacher"]
    assert gate["mse@1.0"] < 0.7 * gate["mse_copy_last"]


def test_a_killed_stage_goes_on_to_the_same_weights(dataset: Path, tmp_path: Path) -> None:
    train, validation = (Clips.load(dataset, split, 3) for split in ("train", "validation"))
    config = replace(toy(dataset).autoencoder, budget=Budget(steps=12))

    torch.manual_seed(5)
    whole, _ = train_autoencoder(config, tmp_path / "whole", train, validation, CPU)

    class Killed(Exception):
        pass

    original = Stage.log

    def die_at_seven(stage: Stage, every: int, **values: object) -> None:
        if stage.step == 6:
            stage.step += 1  # as after the yield
            stage.save()
            raise Killed
        original(stage, every, **values)  # type: ignore[arg-type]

    torch.manual_seed(5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stage, "log", die_at_seven)
        with pytest.raises(Killed):
            train_autoencoder(config, tmp_path / "killed", train, validation, CPU)
    torch.manual_seed(99)  # the checkpoint, not the caller, decides the randomness
    resumed, _ = train_autoencoder(config, tmp_path / "killed", train, validation, CPU)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, msg=name)


def test_bf16_trains_where_the_machine_has_units_for_it(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = toy(dataset)
    # Few steps: where there are no such units, each takes long.
    short = replace(recipe, autoencoder=replace(recipe.autoencoder, budget=Budget(steps=60)))
    plain = run_training(replace(short, name="plain"), tmp_path, CPU, until="autoencoder").gates
    monkeypatch.setattr("exporters.training.stage.has_fast_bf16", lambda device: True)
    gates = run_training(short, tmp_path, CPU, until="teacher").gates
    assert abs(gates["autoencoder"]["psnr_db"] - plain["autoencoder"]["psnr_db"]) < 6.0
    assert gates["teacher"]["mse@1.0"] < 2.0  # finite, and no worse than knowing nothing


def test_bad_recipes_are_refused_by_name(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text('name = "x"\ndataset = "d"\n[teacher]\nlerning_rate = 1.0\n')
    with pytest.raises(ValueError, match="lerning_rate"):
        load_config(recipe)
    recipe.write_text('name = "x"\ndataset = "d"\n[teacher]\nbudget.minutes = 1\nbudget.steps = 2\n')
    with pytest.raises(ValueError, match="exactly one"):
        load_config(recipe)
    with pytest.raises(FileNotFoundError, match="record"):
        Clips.load(tmp_path, "train", 3)
