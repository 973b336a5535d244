"""Runs that begin with a package's models, and branches with another seed: at toy size, from the command line."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("dacite")
pytest.importorskip("onnxscript")

from dsa_runtime.package import open_package  # noqa: E402
from exporters.__main__ import main  # noqa: E402
from exporters.evaluation.allocation.heads import heads_of, with_head  # noqa: E402
from exporters.evaluation.trained import load_trained  # noqa: E402
from exporters.packaging.recover_autoencoder import recover_autoencoder  # noqa: E402
from exporters.packaging.rounding import deployed_autoencoder, deployed_generator  # noqa: E402
from exporters.recording.dataset import DatasetWriter  # noqa: E402
from exporters.recording.episode import Episode  # noqa: E402
from exporters.training.config import load_config  # noqa: E402
from exporters.training.run import load_result  # noqa: E402
from tests.small_world import (  # noqa: E402
    AUTOENCODER,
    GENERATOR,
    LEVELS,
    PICTURE,
    small_autoencoder,
    small_generator,
    small_package,
)

HEADS = {"joint-residual", "joint-gain", "post-hoc-residual", "post-hoc-gain"}
SHARED = ("autoencoder", "teacher", "consistency")


def recipe(dataset: Path) -> str:
    def table(name: str, config: object) -> str:
        return f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in asdict(config).items())

    return f"""
name = "small"
dataset = "{dataset}"
contexts = 2

[schedule]
levels = {list(LEVELS)}

{table("autoencoder.model", AUTOENCODER)}
[autoencoder]
budget.minutes = 5

{table("teacher.model", GENERATOR)}
[teacher]
budget.steps = 2
batch = 2
clip = 5
learning_rate = 1e-6
compiled = false

[consistency]
budget.steps = 2
batch = 2
clip = 5
levels = 4
compiled = false

# Its first ten steps teach the critic only.
[distillation]
budget.steps = 14
batch = 2
frames = 2
longest = 4
critic_updates = 1

[confidence]
rollouts = 1
perceptual = "none"
frames = 3
heldout_rollouts = 1
budget.steps = 3
batch = 16

[calibration]
rollouts = 2
frames = 3

[calibration.risk]
alphas = [0.5]
deltas = [2.0]
rollouts = 4
frames = 2
candidates = 2
"""


def train(folder: Path, *options: str) -> int:
    """The command on the recipe in `folder`; returns its exit status."""
    return main(["train", str(folder / "r.toml"), "--runs", str(folder / "runs"), "--device", "cpu", *options])


def checkpoints(folder: Path) -> dict[str, str]:
    """Digest of every checkpoint of the base run."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (folder / "runs" / "small").glob("*.pt")}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that began with the small package and has finished what branches share."""
    folder = tmp_path_factory.mktemp("begun")
    writer = DatasetWriter.create(
        folder / "data",
        name="noise",
        frame={"height": PICTURE[0], "width": PICTURE[1], "channels": 3, "fps": 20.0},
        action_space={"type": "Discrete", "n": 3, "names": ["noop", "left", "right"]},
        state=(),
        licence="CC0-1.0",
        source="a test",
    )
    rng = np.random.default_rng(0)
    for seed, split in enumerate(("train", "validation", "test")):
        for episode in range(2):
            frames = rng.integers(0, 256, (40, *PICTURE), np.uint8)
            taken = Episode(frames, rng.integers(0, 3, 39), np.zeros(40, np.bool_), np.zeros(39, np.float32))
            writer.add(split, taken, seed=10 * seed + episode)
    writer.finish()
    (folder / "r.toml").write_text(recipe(folder / "data"))
    assert train(folder, "--from", str(small_package()), "--until", "consistency") == 0
    return folder


@pytest.fixture(scope="module")
def branched(begun: Path) -> tuple[Path, dict[str, str], dict[str, str]]:
    """The run finished, and a branch of it; with the base run's checkpoints before and after the branch."""
    assert train(begun) == 0
    before = checkpoints(begun)
    assert train(begun, "--seed", "3") == 0
    return begun, before, checkpoints(begun)


def weights(path: Path, part: str) -> dict[str, torch.Tensor]:
    values = torch.load(path, weights_only=True)["parts"][part]
    return values.get("values", values)


def test_the_autoencoder_of_the_package_counts_as_finished(begun: Path) -> None:
    expected = deployed_autoencoder(small_autoencoder()).state_dict()
    for part in ("model", "average"):
        found = weights(begun / "runs" / "small" / "autoencoder.pt", part)
        assert all(torch.equal(found[name], value) for name, value in expected.items())
        assert not found["normalise.running_mean"].any()


def test_the_teacher_begins_with_the_generator_but_not_with_its_head(begun: Path) -> None:
    """Its two steps, at a rate of 1e-6, move no weight further than that allows."""
    expected = deployed_generator(small_generator()).state_dict()
    for part in ("model", "average"):
        found = weights(begun / "runs" / "small" / "teacher.pt", part)
        moved = {name: float((found[name] - value).abs().max()) for name, value in expected.items()}
        assert max(far for name, far in moved.items() if not name.startswith("confidence.")) < 1e-4
        assert min(far for name, far in moved.items() if name.startswith("confidence.keys")) > 1e-2
    saved = torch.load(begun / "runs" / "small" / "teacher.pt", weights_only=True)
    assert saved["step"] == 2 and saved["parts"]["average"]["count"] == 2


def test_a_run_that_has_begun_is_not_begun_again(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = checkpoints(begun)
    assert train(begun, "--from", str(small_package())) == 2
    error = capsys.readouterr().err
    assert "teacher.pt already; leave --from out" in error and error.count("\n") == 1
    assert checkpoints(begun) == before


def test_a_package_of_another_shape_begins_nothing(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = begun / "other.toml"
    other.write_text((begun / "r.toml").read_text().replace('"small"', '"other"').replace("depth = 3", "depth = 2"))
    arguments = ["train", str(other), "--runs", str(begun / "runs"), "--device", "cpu"]
    assert main([*arguments, "--from", str(small_package())]) == 2
    assert "cache of the package and of the recipe differ" in capsys.readouterr().err
    assert not (begun / "runs" / "other").exists()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--seed", "3", "--from", "anything"], "give --from or --seed, not both"),
        (["--seed", "3", "--until", "teacher"], "until: a branch takes 'teacher' from the base run"),
        (["--seed", "-1"], "seed: must be 0 or more"),
    ],
    ids=["start", "until", "negative"],
)
def test_what_a_branch_cannot_do_is_said(
    begun: Path, options: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(begun, *options) == 2
    assert error in capsys.readouterr().err


@pytest.mark.parametrize("stage", SHARED)
def test_a_branch_needs_what_it_shares(
    begun: Path, tmp_path: Path, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(begun / "runs" / "small", tmp_path / "runs" / "small")
    shutil.copy(begun / "r.toml", tmp_path)
    path = tmp_path / "runs" / "small" / f"{stage}.pt"
    saved = torch.load(path, weights_only=True)
    torch.save({**saved, "done": False, "step": saved["step"] / 2, "seconds": saved["seconds"] / 2}, path)
    assert train(tmp_path, "--seed", "3") == 2
    error = capsys.readouterr().err
    share = 0 if stage == "autoencoder" else 50  # the package's took no step of this run
    assert f"{stage}.pt: {share}% of its budget are used" in error and "without --seed" in error
    path.unlink()
    assert train(tmp_path, "--seed", "3") == 2
    assert f"{stage}.pt: no such checkpoint, and a branch shares it" in capsys.readouterr().err
    assert not (tmp_path / "runs" / "small" / "seed-3").exists()


def test_a_branch_shares_the_base_and_trains_the_rest(branched: tuple[Path, dict[str, str], dict[str, str]]) -> None:
    folder, before, after = branched
    assert before == after, "the branch changed the base run"
    own = {path.name for path in (folder / "runs" / "small" / "seed-3").glob("*.pt")}
    assert "distillation.pt" in own and "generator.pt" in own
    assert not own & {*(f"{stage}.pt" for stage in SHARED), "latents-train.pt", "latents-validation.pt"}
    config = load_config(folder / "r.toml")
    base, branch = (load_result(config, folder / "runs", seed) for seed in (None, 3))
    assert load_result(config, folder / "runs", 0).gates == base.gates
    assert (base.seed, branch.seed) == (0, 3)
    for stage in ("start", *SHARED):
        assert base.gates[stage] == branch.gates[stage], stage
    assert base.gates["start"] == {**base.gates["start"], "name": "small", "version": "0.0.1"}
    shared = zip(base.autoencoder.state_dict().values(), branch.autoencoder.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in shared)
    differs = [
        not torch.equal(value, branch.generator.state_dict()[name])
        for name, value in base.generator.state_dict().items()
        if not name.startswith("confidence.")
    ]
    assert sum(differs) > len(differs) / 2


def test_every_head_of_a_branch_can_be_played(branched: tuple[Path, dict[str, str], dict[str, str]]) -> None:
    folder, _, _ = branched
    config = load_config(folder / "r.toml")
    world = load_trained(config, folder / "runs", seed=3)
    assert world.checkpoint_sha256 != load_trained(config, folder / "runs").checkpoint_sha256
    assert set(world.heads) == set(world.calibrations) == HEADS and world.kept in HEADS
    rng = torch.Generator().manual_seed(0)
    taps = [torch.randn(2, GENERATOR.tokens, GENERATOR.dim, generator=rng) for _ in GENERATOR.taps]
    condition = torch.randn(2, GENERATOR.dim, generator=rng)
    logits = {}
    for name in HEADS:
        other = with_head(world, heads_of(world, {}).by_name[name].module)
        logits[name] = other.generator.confidence(taps, condition)
        assert other.generator.blocks is world.generator.blocks
    assert torch.equal(logits[world.kept], world.generator.confidence(taps, condition))
    assert len({tuple(value.tolist()) for value in logits.values()}) == len(HEADS)
    assert heads_of(world, {}).best.calibration == world.calibration


def test_stages_are_read_from_where_they_lie(branched: tuple[Path, dict[str, str], dict[str, str]]) -> None:
    folder, _, _ = branched
    config = load_config(folder / "r.toml")
    for stage, same in {"teacher": True, "consistency": True, "distillation": False}.items():
        base, branch = (load_trained(config, folder / "runs", stage, seed) for seed in (None, 3))
        assert (base.checkpoint_sha256 == branch.checkpoint_sha256) == same
    with pytest.raises(FileNotFoundError, match="seed-4"):
        load_trained(config, folder / "runs", seed=4)


@pytest.mark.slow
def test_a_branch_is_packaged(branched: tuple[Path, dict[str, str], dict[str, str]], tmp_path: Path) -> None:
    folder, _, _ = branched
    arguments = [str(folder / "r.toml"), str(tmp_path / "world"), "--runs", str(folder / "runs"), "--seed", "3"]
    assert main(["package", *arguments]) == 0
    with open_package(tmp_path / "world") as package:
        spec = package.spec
        again = recover_autoencoder(package, AUTOENCODER)
    assert spec.provenance["seed"] == 3 and spec.provenance["head"] in HEADS
    assert spec.provenance["gates"]["start"]["name"] == "small"
    for name, value in deployed_autoencoder(small_autoencoder()).state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=1e-6, atol=0, msg=name)
