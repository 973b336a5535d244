"""`python -m exporters.evaluation` on a tiny finished run: what it writes, what it keeps, what it refuses."""

import json
import shutil

import pytest

pytest.importorskip("torch")
pytest.importorskip("pytorch_msssim")
pytest.importorskip("flip_evaluator")
pytest.importorskip("matplotlib")
pytest.importorskip("dacite")

import torch

from exporters.evaluation import report
from exporters.evaluation.allocation.part import training_seeds
from exporters.evaluation.trained import load_trained
from exporters.training.config import load_config
from tests.tiny_trained import AUTOENCODER, GENERATOR, LEVELS, calibration, recorded_world, tiny_trained

RECIPE = f"""
name = "turning"
dataset = "{{dataset}}"

[autoencoder.model]
latent_channels = {AUTOENCODER.latent_channels}
widths = {list(AUTOENCODER.widths)}
decoder_blocks = {AUTOENCODER.decoder_blocks}

[teacher.model]
latent_channels = {GENERATOR.latent_channels}
dim = {GENERATOR.dim}
depth = {GENERATOR.depth}
heads = {GENERATOR.heads}
window = {GENERATOR.window}
temporal_dims = {GENERATOR.temporal_dims}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with a recipe, its dataset and the checkpoints of a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    recorded_world(folder / "data")
    (folder / "turning.toml").write_text(RECIPE.format(dataset=folder / "data"))
    checkpoints, trained = folder / "runs" / "turning", tiny_trained()
    checkpoints.mkdir(parents=True)
    parts = {"average": {"values": trained.autoencoder.state_dict()}}
    torch.save({"parts": parts}, checkpoints / "autoencoder.pt")
    torch.save({"parts": {"average": {"values": trained.generator.state_dict()}}}, checkpoints / "teacher.pt")
    finished = {
        "generator": trained.generator.state_dict(),
        "levels": list(LEVELS),
        "calibration": calibration(),
        "gates": {},
    }
    torch.save(finished, checkpoints / "generator.pt")
    return folder


def evaluate(run, *arguments):
    """The command on the tiny run; returns its exit status."""
    return report.main([str(run / "turning.toml"), "--runs", str(run / "runs"), "--no-lpips", "--quick", *arguments])


def test_a_part_is_measured_and_the_others_are_kept(run, tmp_path, capsys):
    out = tmp_path / "results" / "turning.json"
    earlier = {"format": report.FORMAT, "world": "turning", "parts": {"fidelity": "old", "elsewhere": "kept"}}
    out.parent.mkdir()
    out.write_text(json.dumps(earlier))
    assert evaluate(run, "--part", "fidelity", "--json", str(out)) == 0
    document = json.loads(out.read_text())
    section = document["parts"]["fidelity"]
    assert "--part fidelity" in section["provenance"]["command"]
    assert section["provenance"]["machine"]["cores"] >= 1 and len(section["provenance"]["checkpoint_sha256"]) == 64
    assert section["result"]["cases"] == 16
    text = out.with_suffix(".md").read_text()
    assert "| 16 | 4 steps |" in text and section["provenance"]["command"] in text
    assert "### Against the real environment" in capsys.readouterr().out
    assert (tmp_path / "results" / "turning-fidelity.png").exists()
    assert document["parts"]["elsewhere"] == "kept"


def test_a_stage_can_be_looked_at_before_the_run_is_finished(run):
    config = load_config(run / "turning.toml")
    teacher, finished = (load_trained(config, run / "runs", name) for name in ("teacher", "generator"))
    assert teacher.calibration is None and finished.calibration == calibration()
    assert finished.levels == LEVELS and teacher.steps == 4
    expected = tiny_trained().generator.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in teacher.generator.state_dict().items())


@pytest.mark.slow
def test_all_parts_and_a_stage_without_calibration(run, tmp_path):
    from exporters.evaluation.response.action_probe import ProbeConfig, train_probe
    from exporters.recording.dataset import Dataset

    probe = tmp_path / "probe.npz"
    train_probe(Dataset(run / "data"), ProbeConfig(pairs=200, epochs=1)).save(probe)
    out = tmp_path / "turning.json"
    assert evaluate(run, "--checkpoint", "teacher", "--probe", str(probe), "--json", str(out)) == 0
    assert json.loads(out.read_text())["parts"].keys() == set(report.RENDERERS) - {"state"}
    text = out.with_suffix(".md").read_text()
    for title in ("Against the real environment", "Response to actions", "Free play", "Adaptive against fixed"):
        assert f"### {title}" in text
    assert (tmp_path / "turning-allocation.png").exists() and (tmp_path / "turning-drift.png").exists()


def test_free_play_is_as_long_as_asked(run, tmp_path, capsys):
    out = tmp_path / "turning.json"
    assert evaluate(run, "--part", "drift", "--ticks", "40", "--sessions", "1", "--json", str(out)) == 0
    result = json.loads(out.read_text())["parts"]["drift"]["result"]
    assert (result["ticks"], result["sessions"], result["engine"]) == (40, 1, "torch")
    assert "1 sessions of 40 ticks through torch" in capsys.readouterr().out
    assert (tmp_path / "turning-drift.png").exists() and (tmp_path / "turning-drift-curves.png").exists()
    assert evaluate(run, "--part", "drift", "--ticks", "0", "--json", str(out)) == 2
    assert "drift.ticks: must be at least 1" in capsys.readouterr().err


def test_a_part_that_the_world_does_not_have_is_refused(run, tmp_path, capsys):
    assert evaluate(run, "--part", "state", "--json", str(tmp_path / "turning.json")) == 2
    assert "part state: the recipe's table evaluation.state names no movers" in capsys.readouterr().err


def test_all_finished_trainings_are_compared_and_played_once(run, tmp_path, capsys):
    trained, runs = tiny_trained(), tmp_path / "runs"
    shutil.copytree(run / "runs", runs)
    head = trained.generator.confidence.state_dict()
    finished = {
        "generator": trained.generator.state_dict(),
        "levels": list(LEVELS),
        "calibration": calibration(),
        "gates": {},
        "heads": {"post-hoc-gain": head, "joint-residual": head},
        "calibrations": {"post-hoc-gain": calibration(), "joint-residual": calibration()},
        "kept": "post-hoc-gain",
    }
    for seed in (3, 12):
        (runs / "turning" / f"seed-{seed}").mkdir()
        torch.save(finished, runs / "turning" / f"seed-{seed}" / "generator.pt")
    out = tmp_path / "turning.json"
    small = ["--cases", "4", "--seeds", "0", "--horizons", "2", "--mean-steps", "2", "--runs", str(runs)]
    asked = ["--part", "allocation", "--json", str(out), *small, "--training-seeds"]
    assert evaluate(run, *asked, "3", "12") == 0
    result = json.loads(out.read_text())["parts"]["allocation"]["result"]
    assert result["trainings"] == [{"seed": seed, "kept": "post-hoc-gain"} for seed in (3, 12)]
    assert result["cases"] == 4 and {row["point"] for row in result["gain"]} == {2.0}
    assert {row["head"] for row in result["heads"]["ranking"]} == {"post-hoc-gain", "joint-residual"}
    assert (tmp_path / "turning-allocation.png").exists()
    assert sorted(path.name.rsplit("-", 1)[0] for path in (tmp_path / "turning-allocation").iterdir()) == [
        "training-12-rollout-0",
        "training-3-rollout-0",
    ]
    assert training_seeds(load_config(run / "turning.toml"), runs) == [0, 3, 12]
    assert evaluate(run, *asked, "5") == 2
    assert "seed-5/generator.pt" in capsys.readouterr().err


def test_results_of_something_else_are_not_overwritten(run, tmp_path, capsys):
    out = tmp_path / "notes.json"
    for content in ("{}", "not json", '{"format": "dsa-evaluation", "world": "other", "parts": {}}'):
        out.write_text(content)
        assert evaluate(run, "--part", "fidelity", "--json", str(out)) == 2
        assert str(out) in capsys.readouterr().err and out.read_text() == content


def test_what_is_missing_is_named(run, tmp_path, capsys):
    assert evaluate(run, "--checkpoint", "distillation", "--json", str(tmp_path / "a.json")) == 2
    assert "distillation.pt: no such checkpoint" in capsys.readouterr().err
    assert report.main([str(tmp_path / "none.toml"), "--json", str(tmp_path / "a.json")]) == 2
    assert "none.toml" in capsys.readouterr().err


def test_weights_of_another_recipe_are_refused(run, tmp_path):
    other = tmp_path / "other.toml"
    other.write_text((run / "turning.toml").read_text().replace("depth = 2", "depth = 3"))
    with pytest.raises(ValueError, match=r"teacher\.pt: not the averaged weights"):
        load_trained(load_config(other), run / "runs", "teacher")
