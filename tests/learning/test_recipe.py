"""The whole recipe at toy size: a square that the action moves. It must learn, stop anywhere, and go on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("dacite")

from exporters.model.autoencoder import AutoencoderConfig  # noqa: E402
from exporters.model.generator import GeneratorConfig  # noqa: E402
from exporters.training.autoencoder import AutoencoderTraining, train_autoencoder  # noqa: E402
from exporters.training.calibration import CalibrationTraining  # noqa: E402
from exporters.training.confidence import ConfidenceTraining  # noqa: E402
from exporters.training.config import Schedule, TrainConfig, load_config  # noqa: E402
from exporters.training.consistency import ConsistencyTraining  # noqa: E402
from exporters.training.data import Clips  # noqa: E402
from exporters.training.distillation import DistillationTraining  # noqa: E402
from exporters.training.run import load_result, run_training  # noqa: E402
from exporters.training.stage import Budget, Stage  # noqa: E402
from exporters.training.teacher import TeacherTraining  # noqa: E402

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
    for split in ("train", "validation", "test"):
        (folder / split).mkdir()
        for episode in range(3):
            actions = random.integers(0, 3, 80)
            place, frames = 8, []
            for action in [0, *actions]:
                place = int(np.clip(place + (0, -8, 8)[action], 0, 16))
                frame = np.full((32, 32, 3), 40, np.uint8)
                frame[8:24, place : place + 16] = (220, 120, 60)
                frames.append(frame)
            np.savez_compressed(folder / split / f"{episode:06d}.npz", frames=np.stack(frames), actions=actions)
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
        confidence=ConfidenceTraining(rollouts=2, frames=3, heldout_rollouts=2, budget=Budget(steps=20), batch=32),
        calibration=CalibrationTraining(rollouts=4, frames=4),
    )


def test_every_stage_runs_and_a_second_run_changes_nothing(dataset: Path, tmp_path: Path) -> None:
    config = toy(dataset)
    first = run_training(config, tmp_path, CPU)
    assert first.calibration is not None and first.generator is not None
    assert 0 <= first.calibration["default_threshold"] <= 1
    assert set(first.gates) == {"autoencoder", "teacher", "consistency", "distillation", "confidence", "calibration"}
    loaded = load_result(config, tmp_path)
    assert loaded.generator is not None and loaded.levels == first.levels
    for name, value in first.generator.state_dict().items():
        assert torch.equal(value, loaded.generator.state_dict()[name]), name
    before = (tmp_path / "squares" / "distillation.pt").stat().st_mtime_ns
    run_training(config, tmp_path, CPU, until="distillation")
    assert (tmp_path / "squares" / "distillation.pt").stat().st_mtime_ns == before


def test_the_teacher_learns_what_the_action_does(dataset: Path, tmp_path: Path) -> None:
    config = replace(toy(dataset), teacher=TeacherTraining(MODEL, Budget(steps=400), batch=8, clip=6, compiled=False))
    gate = run_training(config, tmp_path, CPU, until="teacher").gates["teacher"]
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
    monkeypatch.setattr("exporters.training.stage.has_fast_bf16", lambda device: True)
    gates = run_training(toy(dataset), tmp_path, CPU, until="teacher").gates
    plain = run_training(replace(toy(dataset), name="plain"), tmp_path, CPU, until="autoencoder").gates
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
