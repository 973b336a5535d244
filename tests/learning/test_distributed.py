"""Training on two processes: the curves of one, whoever began the run and whoever goes on with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("dacite")

from exporters.training import distributed  # noqa: E402
from exporters.training import stage as stages  # noqa: E402
from exporters.training.config import TrainConfig, load_config  # noqa: E402
from exporters.training.distributed import Ranks  # noqa: E402
from exporters.training.run import load_result, run_training  # noqa: E402
from exporters.training.stage import Budget, Stage  # noqa: E402
from tests.learning.ranks_worker import LOG, in_full_precision, log_every_step  # noqa: E402
from tests.tiny_trained import recorded_world  # noqa: E402

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
RECIPE = """
name = "tiny"
dataset = "DATASET"
schedule.levels = [1.0, 0.8, 0.5]
[autoencoder]
model = { latent_channels = 4, widths = [8, 8, 8], decoder_blocks = 1 }
budget.steps = 4
batch = 4
learning_rate = 4e-3
[teacher]
model = { latent_channels = 4, dim = 32, depth = 2, heads = 2, window = 3, temporal_dims = 4 }
budget.steps = 6
batch = 4
clip = 5
compiled = false
[consistency]
budget.steps = 3
batch = 4
clip = 5
levels = 8
compiled = false
[distillation]
budget.steps = 12  # the generator learns from the eleventh on
batch = 4
frames = 2
longest = 5
critic_updates = 1
learning_rate = 3e-4
[confidence]
rollouts = 2
perceptual = "none"
frames = 3
heldout_rollouts = 2
budget.steps = 5
batch = 32
[calibration]
rollouts = 4
frames = 4
risk = { rollouts = 6, frames = 2, candidates = 3 }
"""
need_processes = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    recorded_world(folder / "data", steps=80)
    (folder / "recipe.toml").write_text(RECIPE.replace("DATASET", (folder / "data").as_posix()))
    return folder / "recipe.toml"


@pytest.fixture(scope="module")
def alone(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """Curves of one process up to the distillation."""
    runs = tmp_path_factory.mktemp("alone")
    go_on_alone(load_config(recipe), runs)
    return curves(runs)


def go_on_alone(config: TrainConfig, runs: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stage, "log", log_every_step)
        patch.setattr(stages, "has_fast_bf16", in_full_precision)
        run_training(config, runs, CPU, until="distillation")


def two_processes(recipe: Path, runs: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.learning.ranks_worker", "train", str(recipe), "--runs", str(runs), "--device", "cpu"]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([*command, *options], cwd=ROOT, env=settings, capture_output=True, text=True, timeout=500)


def curves(runs: Path) -> dict[str, list[float]]:
    """Every scalar of metrics.jsonl by stage and name, the gates included; means over the batch only."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    for text in (runs / "tiny" / "metrics.jsonl").read_text().splitlines():
        line: dict[str, Any] = json.loads(text)
        key = line.pop("stage"), line.pop("step")
        if key[0] in ("confidence", "calibration"):
            continue
        # The gate of a stage that had finished is written again; a step is not.
        assert key not in found or "gate" in line, key
        values = line.pop("gate", line)
        found[key] = {name: x for name, x in values.items() if name not in ("seconds", "spread")}  # spread: no mean
    result: dict[str, list[float]] = {}
    for (stage, _), values in sorted(found.items()):
        for name, value in values.items():
            result.setdefault(f"{stage} {name}", []).append(value)
    return result


def assert_same(curves: dict[str, list[float]], expected: dict[str, list[float]]) -> None:
    assert curves.keys() == expected.keys()
    for name, values in expected.items():
        assert curves[name] == pytest.approx(values, rel=5e-5, abs=1e-7), name


@need_processes
def test_two_processes_go_on_with_a_run_of_one(recipe: Path, alone: dict[str, list[float]], tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop_after_one(stage: Stage, every: int, **values: float) -> None:
        LOG(stage, 1, **values)
        stage.step += 1  # as after the yield
        stage.save()
        raise Stopped

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Stage, "log", stop_after_one)
        patch.setattr(stages, "has_fast_bf16", in_full_precision)
        run_training(load_config(recipe), tmp_path, CPU)
    done = two_processes(recipe, tmp_path, "--until", "distillation")
    assert done.returncode == 0, done.stderr
    assert_same(curves(tmp_path), alone)
    assert done.stdout.count("== teacher gate") == 1, "only one process talks"


@need_processes
@pytest.mark.slow
def test_one_process_goes_on_with_a_sharded_run_of_two(
    recipe: Path, alone: dict[str, list[float]], tmp_path: Path
) -> None:
    done = two_processes(recipe, tmp_path, "--shard", "--until", "teacher")
    assert done.returncode == 0, done.stderr
    go_on_alone(load_config(recipe), tmp_path)
    assert_same(curves(tmp_path), alone)


@need_processes
@pytest.mark.slow
@pytest.mark.parametrize("sharding", [(), ("--shard",)])
def test_two_processes_run_the_whole_recipe(
    recipe: Path, alone: dict[str, list[float]], tmp_path: Path, sharding: tuple[str, ...]
) -> None:
    done = two_processes(recipe, tmp_path, *sharding)
    assert done.returncode == 0, done.stderr
    assert_same(curves(tmp_path), alone)
    result = load_result(load_config(recipe), tmp_path)
    assert result.generator is not None and result.calibration is not None
    kept = torch.load(tmp_path / "tiny" / "distillation.pt", weights_only=True)["parts"]["average"]["values"]
    for name, value in result.generator.state_dict().items():
        if not name.startswith("confidence."):
            assert torch.equal(value, kept[name]), name


@need_processes
@pytest.mark.slow
def test_a_draw_on_one_process_only_is_noticed(recipe: Path, tmp_path: Path) -> None:
    done = two_processes(recipe, tmp_path, "--until", "autoencoder", TEST_DRAW_ALONE_IN="autoencoder")
    assert done.returncode != 0
    assert "random streams have come apart" in done.stderr
    assert not (tmp_path / "tiny" / "autoencoder.pt").exists()


# One process that plays each rank in turn.


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_rows_of_all_ranks_are_those_of_one_process(layout: torch.memory_format) -> None:
    whole = torch.zeros(6, 3, 4, 5).to(memory_format=layout)
    torch.manual_seed(3)
    level, noise = Ranks().draw(torch.rand, (6, 2)), Ranks().randn_like(whole)
    for rank in range(3):
        torch.manual_seed(3)
        ranks = Ranks(rank, 3)
        rows = slice(2 * rank, 2 * rank + 2)
        assert torch.equal(ranks.draw(torch.rand, (2, 2)), level[rows])
        assert torch.equal(ranks.randn_like(ranks.rows(whole)), noise[rows])


def test_a_batch_that_does_not_divide_is_refused_by_name(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "_current", Ranks(0, 3))
    with pytest.raises(ValueError, match=r"autoencoder\.batch: a batch of 4 .* 3 processes.*for example 3"):
        run_training(load_config(recipe), tmp_path, CPU)
    assert not list(tmp_path.iterdir())


def test_joining_alone_needs_no_process_group() -> None:
    with Ranks.join("cpu") as ranks:
        assert (ranks.first, ranks.world, ranks.device) == (True, 1, CPU)
        assert not torch.distributed.is_initialized()
    with pytest.raises(ValueError, match="torchrun"), Ranks.join("cpu", shard=True):
        pass


@pytest.mark.parametrize(("device", "local", "said"), [("cuda:1", 0, "say cuda"), ("cuda", 2, "finds 2 GPUs")])
def test_each_process_has_a_gpu_of_its_own(device: str, local: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": local, "WORLD_SIZE": 4, "LOCAL_RANK": local}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=said), Ranks.join(device):
        pass


def test_a_checkpoint_without_a_part_says_what_to_do(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 2)
    Stage("old", tmp_path, Budget(steps=1), {"layer": layer}).save()
    with pytest.raises(ValueError, match=r"old\.pt.*'average'.*train anew"):
        Stage("old", tmp_path, Budget(steps=1), {"layer": layer, "average": layer}).resume()
