"""One's own world from end to end, at toy size: record, train, package, verify, play. The path of docs/own-world.md."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("gymnasium")
pytest.importorskip("dacite")
pytest.importorskip("sklearn")
pytest.importorskip("onnxscript")

import dsa_runtime
from exporters.__main__ import main as exporters
from exporters.recording.__main__ import main as recording

ROOT = Path(__file__).parents[2]
TOY = {
    "[autoencoder]": "model = { latent_channels = 4, widths = [8, 16, 16], decoder_blocks = 1 }\nbatch = 8",
    "[teacher]": "model.latent_channels = 4\nmodel.dim = 32\nmodel.depth = 2\nmodel.heads = 2\nmodel.window = 3\n"
    "model.temporal_dims = 8\nbatch = 4\nclip = 6\ncompiled = false",
    "[consistency]": "batch = 4\nclip = 6\nlevels = 8\ncompiled = false",
    "[distillation]": "batch = 4\nframes = 3\nlongest = 6\ncritic_updates = 1",
}


def shrink(recipe: Path) -> None:
    """The same recipe with tiny models and a few steps per stage."""
    text = re.sub(r"budget\.minutes = .*", "budget.steps = 4", recipe.read_text())
    for table, settings in TOY.items():
        text = text.replace(table, f"{table}\n{settings}")
    for key in ("rollouts", "heldout_rollouts", "frames"):
        text = re.sub(rf"^{key} = \d+", f"{key} = 2", text, flags=re.MULTILINE)
    recipe.write_text(text.replace("budget.steps = 300", "budget.steps = 5"))


@pytest.mark.slow
def test_from_an_environment_to_a_world_that_plays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.chdir(tmp_path)
    asked = ["--out", "data/orchard", "--frames", "360", "--size", "32x32", "--workers", "1", "--licence", "CC0-1.0"]
    player = ["--policy", "examples.own_world.orchard:player"]
    assert recording(["record-env", "examples.own_world.orchard:Orchard-v0", *asked, *player]) == 0
    told = capsys.readouterr().out
    assert "python -m exporters train configs/orchard.toml --package build/orchard" in told
    recipe = Path("configs/orchard.toml")
    shrink(recipe)

    assert exporters(["train", str(recipe), "--package", "build/orchard"]) == 0
    told = capsys.readouterr()
    assert told.out.strip().endswith("play it: dsa play build/orchard")
    assert "== teacher (2 of 6)" in told.out
    assert exporters(["verify", str(recipe), "build/orchard", "--frames", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passed"]

    with dsa_runtime.load_world("build/orchard", threads=1) as world, world.session(seed=7) as session:
        spec = world.spec
        assert (spec.name, spec.licence, spec.frame.fps) == ("orchard", "CC0-1.0", 12.0)
        assert spec.action_space.names == ("stay", "left", "right")
        frames = [session.step(action, budget_ms=float("inf")).pixels for action in (0, 1, 2, 2)]
    assert all(frame.shape == (32, 32, 3) for frame in frames)
    assert np.std(frames[-1]) > 0
