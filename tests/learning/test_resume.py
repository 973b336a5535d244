"""What becomes of a run that is killed at a bad moment, or goes on with another recipe: small stages and toy models."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("dacite")
pytest.importorskip("onnxscript")

from exporters.model.autoencoder import Autoencoder  # noqa: E402
from exporters.model.generator import Generator  # noqa: E402
from exporters.training import autoencoder as autoencoder_stage  # noqa: E402
from exporters.training.autoencoder import AutoencoderTraining, train_autoencoder  # noqa: E402
from exporters.training.branch import _gates  # noqa: E402
from exporters.training.config import TrainConfig  # noqa: E402
from exporters.training.data import encode_clips  # noqa: E402
from exporters.training.optimizer import transformer_optimizers  # noqa: E402
from exporters.training.run import Trained, load_result, run_training, save_result  # noqa: E402
from exporters.training.stage import Budget, Stage, set_learning_rate  # noqa: E402
from exporters.training.start import Start, check_start, place_start  # noqa: E402
from exporters.training.teacher import TeacherTraining  # noqa: E402
from tests.tiny_trained import AUTOENCODER, GENERATOR, tiny_clips  # noqa: E402

CPU = torch.device("cpu")
CONFIG = TrainConfig(
    name="tiny",
    dataset="nowhere",
    autoencoder=AutoencoderTraining(model=AUTOENCODER, budget=Budget(steps=3), batch=2),
    teacher=TeacherTraining(model=GENERATOR, budget=Budget(steps=2), compiled=False),
)


class Killed(BaseException):
    """As a signal would."""


@pytest.fixture(autouse=True)
def few_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The latents' statistics from less than a real run takes."""
    monkeypatch.setattr(autoencoder_stage, "measure_latents", partial(autoencoder_stage.measure_latents, batches=3))


def kill(*_: object, **__: object) -> None:
    raise Killed


def autoencoder(config: AutoencoderTraining, folder: Path) -> dict[str, Any]:
    """Train or resume the toy autoencoder; returns its averaged weights."""
    torch.manual_seed(5)
    model, _ = train_autoencoder(config, folder, tiny_clips(), tiny_clips(), CPU)
    return {name: value.clone() for name, value in model.state_dict().items()}


def layer_stage(folder: Path, budget: Budget, name: str = "layer", rate: float = 0.1, **extra: Any) -> Stage:
    torch.manual_seed(1)
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=rate, betas=(rate, 0.9), weight_decay=rate)
    return Stage(name, folder, budget, {"layer": layer, "optimizer": optimizer}, **extra)


def trained(stage: Stage) -> int:
    """Resume and run a stage; returns how many steps it took."""
    stage.resume()
    taken = 0
    for _ in stage.steps():
        set_learning_rate([stage.parts["optimizer"]], 0.5)
        loss = stage.parts["layer"](torch.ones(2)).sum()
        stage.parts["optimizer"].zero_grad()
        loss.backward()
        stage.parts["optimizer"].step()
        taken += 1
    return taken


def test_a_kill_before_the_latents_are_measured_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = autoencoder(CONFIG.autoencoder, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(autoencoder_stage, "measure_latents", kill)
        with pytest.raises(Killed):
            autoencoder(CONFIG.autoencoder, tmp_path / "killed")
    found = autoencoder(CONFIG.autoencoder, tmp_path / "killed")
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    monkeypatch.setattr(autoencoder_stage, "measure_latents", kill)  # not again
    again = autoencoder(CONFIG.autoencoder, tmp_path / "killed")
    assert all(torch.equal(again[name], value) for name, value in expected.items())


def test_an_older_checkpoint_that_used_its_budget_up_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = autoencoder(CONFIG.autoencoder, tmp_path)
    path = tmp_path / "autoencoder.pt"
    saved = torch.load(path, weights_only=True)
    torch.save({key: saved[key] for key in ("parts", "step", "seconds", "rng")}, path)
    monkeypatch.setattr(autoencoder_stage, "measure_latents", kill)
    found = autoencoder(CONFIG.autoencoder, tmp_path)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_a_killed_start_is_whole_or_can_be_given_again(
    tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at each of its renames in turn; the last time it is not killed at all."""
    torch.manual_seed(9)
    start = Start(Autoencoder(AUTOENCODER), Generator(GENERATOR), {"name": "origin"})
    folder = tmp_path / "tiny"
    folder.mkdir()
    rename, renames = os.replace, 0

    def replaced(source: Path, target: Path) -> None:
        nonlocal renames
        renames += 1
        if renames > after:
            raise Killed
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replaced)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # a killed process tidies nothing up
        with contextlib.suppress(Killed):
            place_start(start, CONFIG, folder)
    complete = {"autoencoder.pt", "teacher.pt", "start.json"}
    if after == 3:
        assert not list(tmp_path.glob(".start-*"))
    else:
        assert not folder.exists() or not any(folder.iterdir())
        check_start(CONFIG, tmp_path)
        place_start(start, CONFIG, folder)
    assert {path.name for path in folder.iterdir()} == complete
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
    with pytest.raises(ValueError, match="leave --from out"):
        check_start(CONFIG, tmp_path)


@pytest.mark.parametrize("budget", [Budget(steps=100), Budget(minutes=0.5)], ids=["more", "minutes"])
def test_an_autoencoder_that_was_placed_stays_as_it_is(tmp_path: Path, budget: Budget) -> None:
    torch.manual_seed(9)
    start = Start(Autoencoder(AUTOENCODER), Generator(GENERATOR), {"name": "origin"})
    place_start(start, CONFIG, tmp_path / "tiny")
    found = autoencoder(replace(CONFIG.autoencoder, budget=budget), tmp_path / "tiny")
    assert all(torch.equal(found[name], value) for name, value in start.autoencoder.state_dict().items())


def test_a_larger_budget_goes_on_unless_something_was_built(tmp_path: Path) -> None:
    assert trained(layer_stage(tmp_path, Budget(steps=3), "teacher")) == 3
    assert trained(layer_stage(tmp_path, Budget(minutes=9), "teacher")) == 0  # of another kind
    assert trained(layer_stage(tmp_path, Budget(steps=2), "teacher")) == 0
    assert trained(layer_stage(tmp_path, Budget(steps=5), "teacher")) == 2
    layer_stage(tmp_path, Budget(steps=1), "consistency").save()
    with pytest.raises(ValueError, match=r"teacher\.budget back to steps = 5, or delete consistency\.pt"):
        layer_stage(tmp_path, Budget(steps=6), "teacher").resume()
    assert trained(layer_stage(tmp_path, Budget(steps=5), "teacher")) == 0


def test_the_settings_of_the_recipe_hold_after_a_resume(tmp_path: Path) -> None:
    trained(layer_stage(tmp_path, Budget(steps=2), rate=0.1))
    resumed = layer_stage(tmp_path, Budget(steps=4), rate=0.3)
    resumed.resume()
    group = resumed.parts["optimizer"].param_groups[0]
    assert (group["lr"], group["initial_lr"], group["betas"], group["weight_decay"]) == (0.3, 0.3, (0.3, 0.9), 0.3)
    moments = resumed.parts["optimizer"].state_dict()["state"][0]
    assert moments["step"] == 2 and moments["exp_avg"].any()


def test_the_settings_of_both_optimizers_of_a_transformer_hold(tmp_path: Path) -> None:
    model = Generator(GENERATOR)
    for rate in (1e-2, 1e-4):
        optimizers = transformer_optimizers(model, rate, weight_decay=rate)
        stage = Stage("both", tmp_path, Budget(steps=9), {"optimizers": optimizers})
        stage.resume()
        optimizers.step(0.5)
        stage.save()
    for member in optimizers.members:
        group = member.param_groups[0]
        assert (group["initial_lr"], group["lr"], group["weight_decay"]) == (1e-4, 5e-5, 1e-4)


def test_another_shape_at_a_resume_names_file_and_table(tmp_path: Path) -> None:
    autoencoder(CONFIG.autoencoder, tmp_path)
    wider = replace(CONFIG.autoencoder, model=replace(AUTOENCODER, widths=(8, 8, 16)))
    with pytest.raises(ValueError, match=r"autoencoder\.pt: its 'model' has another shape.*\[autoencoder\.model\]"):
        autoencoder(wider, tmp_path)


def test_a_stage_refuses_other_inputs_than_it_was_trained_on(tmp_path: Path) -> None:
    layer_stage(tmp_path, Budget(steps=2), inputs={"up.pt": "a"}).save()
    assert layer_stage(tmp_path, Budget(steps=2), inputs={"up.pt": "a"}).resume()
    with pytest.raises(ValueError, match=r"layer\.pt: trained on another up\.pt"):
        layer_stage(tmp_path, Budget(steps=2), inputs={"up.pt": "b"}).resume()
    layer_stage(tmp_path, Budget(steps=2)).save()  # it does not say
    assert layer_stage(tmp_path, Budget(steps=2), inputs={"up.pt": "b"}).resume()


def test_cached_latents_are_those_of_the_autoencoder_and_recordings(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first, second = Autoencoder(AUTOENCODER).eval(), Autoencoder(AUTOENCODER).eval()
    clips, cache = replace(tiny_clips(), source="one"), tmp_path / "latents.pt"
    encode_clips(clips, first, cache)
    latents, written = clips.latents, cache.stat().st_mtime_ns
    encode_clips(clips, first, cache)
    assert cache.stat().st_mtime_ns == written and torch.equal(clips.latents, latents)
    encode_clips(clips, second, cache)
    assert not torch.equal(clips.latents, latents)
    written = cache.stat().st_mtime_ns
    encode_clips(replace(clips, source="two"), second, cache)
    assert cache.stat().st_mtime_ns != written
    torch.save(latents, cache)  # as older versions did
    encode_clips(clips, second, cache)
    assert torch.equal(clips.latents, latents)
    torch.save(latents[:-1], cache)
    encode_clips(clips, first, cache)
    assert torch.equal(clips.latents, latents)


def test_the_seed_of_the_training_is_reported(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    autoencoder(CONFIG.autoencoder, folder)
    model = Generator(GENERATOR)
    result = Trained((1.0,), Autoencoder(AUTOENCODER), {}, generator=model, seed=4)
    save_result(folder / "generator.pt", result)
    assert load_result(replace(CONFIG, seed=7), tmp_path).seed == 4
    deeper = replace(CONFIG, teacher=replace(CONFIG.teacher, model=replace(GENERATOR, depth=3)))
    with pytest.raises(ValueError, match=r"generator\.pt: not the model of this recipe's \[teacher\.model\]"):
        load_result(deeper, tmp_path)


def test_a_checkpoint_keeps_the_seed_it_began_with(tmp_path: Path) -> None:
    layer_stage(tmp_path, Budget(steps=2)).save()
    torch.manual_seed(2)
    other = Stage("layer", tmp_path, Budget(steps=2), {"layer": torch.nn.Linear(2, 2)})
    assert other.seed == 2
    other.resume()
    assert other.seed == other.state()["seed"] == 1


def test_half_a_line_of_metrics_is_skipped(tmp_path: Path) -> None:
    stage = Stage("teacher", tmp_path, Budget(steps=2), {})
    stage.write(gate={"x": 1})
    with open(tmp_path / "metrics.jsonl", "a") as out:
        out.write('{"stage": "tea')
    assert _gates(tmp_path) == {"teacher": {"x": 1}}
    stage.write(gate={"x": 2})
    assert _gates(tmp_path) == {"teacher": {"x": 2}}
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 3 and json.loads(lines[2])["gate"] == {"x": 2}


def test_a_teacher_without_its_autoencoder_is_refused(tmp_path: Path) -> None:
    layer_stage(tmp_path / "tiny", Budget(steps=1), "teacher").folder.mkdir()
    layer_stage(tmp_path / "tiny", Budget(steps=1), "teacher").save()
    with pytest.raises(ValueError, match=r"teacher\.pt lies there without autoencoder\.pt"):
        run_training(CONFIG, tmp_path, CPU)
