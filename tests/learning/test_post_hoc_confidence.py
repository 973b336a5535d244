"""A confidence head for a frozen checkpoint of others: what it learns, what is written, what is refused.

A random transformer is enough for that: what its remaining steps would change is as real as a trained one's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy")
pytest.importorskip("sklearn")
pytest.importorskip("dacite")
pytest.importorskip("onnxscript")
safetensors_torch = pytest.importorskip("safetensors.torch")

from exporters.__main__ import main  # noqa: E402
from exporters.importers.checkpoint import CheckpointError  # noqa: E402
from exporters.importers.confidence_file import confidence_files, read_confidence  # noqa: E402
from exporters.importers.latent_benefit import collect_latent_benefits  # noqa: E402
from exporters.importers.post_hoc import PostHocTraining, split_prompts, train_post_hoc  # noqa: E402
from exporters.importers.prompts import read_prompts  # noqa: E402
from exporters.importers.self_forcing import LEVELS, read_generator  # noqa: E402
from exporters.importers.wan import published_state  # noqa: E402
from exporters.model.wan.config import WanConfig  # noqa: E402
from exporters.model.wan.generator import WanGenerator  # noqa: E402
from exporters.model.wan.transformer import WanTransformer  # noqa: E402
from exporters.packaging.describe import calibration_spec  # noqa: E402
from exporters.training.benefit import OWN  # noqa: E402
from exporters.training.digest import weights_digest  # noqa: E402

CONFIG = WanConfig(
    dim=48,
    depth=3,
    heads=2,
    mlp_width=40,
    latent_channels=4,
    level_width=16,
    text_width=20,
    chunk=2,
    latent_height=4,
    latent_width=6,
    window=2,
)


def tiny_generator(seed: int = 0) -> WanGenerator:
    """Random weights, none of them zero."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer = WanTransformer(CONFIG)
        for name, parameter in transformer.named_parameters():
            is_norm = "norm" in name and name.endswith("weight")
            std = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.3
            torch.nn.init.normal_(parameter, mean=float(is_norm), std=std)
        return WanGenerator(transformer.requires_grad_(False)).eval()


def texts(count: int) -> torch.Tensor:
    return torch.randn(count, 5, 20, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A file of Wan's own names with its config.json, and prompts."""
    (tmp_path / "config.json").write_text(json.dumps({"num_heads": 2}))
    file = tmp_path / "wan.safetensors"
    safetensors_torch.save_file(published_state(tiny_generator().transformer), file)
    np.savez(tmp_path / "prompts.npz", prompts=texts(4).numpy())
    return file


def command(checkpoint: Path, *more: str) -> list[str]:
    size = ["--height", "32", "--width", "48", "--chunk", "2", "--window", "2", "--chunks", "2", "--batch", "4"]
    few = ["--rollouts", "4", "--heldout-rollouts", "4", "--steps", "3", "--device", "cpu"]
    return ["confidence", str(checkpoint), "--prompts", str(checkpoint.parent / "prompts.npz"), *size, *few, *more]


def test_the_head_ranks_chunks_of_prompts_that_it_has_not_seen() -> None:
    """By what the remaining steps change, after every step. The prompts are of different strength, so that there is
    something to tell apart."""
    generator = tiny_generator(seed=1)
    before = weights_digest(generator.transformer)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(2))
    prompts = texts(64) * torch.linspace(0.2, 3, 64)[order][:, None, None]
    settings = PostHocTraining(rollouts=128, heldout_rollouts=64, chunks=2, batch=64, steps=150, minibatch=64)
    fitted = train_post_hoc(settings, LEVELS, generator, prompts)
    assert min(fitted.gate["rank_correlation"]) > 0.25, fitted.gate["rank_correlation"]
    assert fitted.gate["prompts"] == {"fit": 48, "heldout": 16, "heldout_are_others": True}
    assert fitted.gate["chunks"] == {"fit": 256, "heldout": 128}
    assert fitted.gate["reliability"]["expected_calibration_error"] < 0.2
    spec = calibration_spec(fitted.calibration)  # as a world package reads it
    assert spec.delta > 0 and len(spec.within_delta) == len(LEVELS) - 1
    assert weights_digest(generator.transformer) == before


def test_samples_are_of_all_steps_and_in_the_order_of_the_rollouts() -> None:
    """However many rollouts are played at once; and a chunk's gain is what the steps after it have changed."""
    generator = tiny_generator()
    samples = collect_latent_benefits(
        generator, LEVELS, texts(3), 5, 2, batch=2, keep_tokens=7, head=generator.confidence
    )
    assert [tuple(t.shape) for t in samples.taps] == [(10, 3, 7, 48)] * 3
    assert samples.squared.shape == samples.logits[OWN].shape == (10, 3) and samples.condition.shape == (10, 3, 48)
    assert (samples.squared > 0).all() and torch.equal(samples.rms, samples.squared.sqrt())
    zero = generator.transformer.out
    zero.weight.zero_()  # a velocity that is the same everywhere: after every step, x - t * v of another noise
    zero.bias.zero_()
    still = collect_latent_benefits(generator, (1.0, 1e-6), texts(1), 1, 1)
    assert still.squared.max() < 1e-9  # the second step re-noises by nothing


def test_few_prompts_serve_twice() -> None:
    few, many = texts(3), texts(9)
    assert split_prompts(None) == (None, None)
    assert all(part is few for part in split_prompts(few))
    assert [len(part) for part in split_prompts(many) if part is not None] == [7, 2]


def test_the_command_writes_what_can_be_read_back(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(checkpoint)) == 0
    printed = capsys.readouterr().out.splitlines()
    files = confidence_files(checkpoint)
    assert printed[-2:] == [str(file) for file in files] and "rank correlation" in printed[0]
    generator = read_generator(checkpoint, played=CONFIG)
    told = read_confidence(checkpoint, generator)
    assert told["config"]["dim"] == 48 and told["levels"] == list(LEVELS) and told["taps"] == [0, 1, 2]
    stored = safetensors_torch.load_file(files[0])
    assert all(torch.equal(stored[name], value) for name, value in generator.confidence.state_dict().items())
    # The folder still holds one checkpoint: a head is none.
    assert weights_digest(read_generator(checkpoint.parent, played=CONFIG).transformer) == told["transformer_sha256"]
    # The same again is the same head.
    first = files[0].read_bytes()
    assert main(command(checkpoint)) == 0 and files[0].read_bytes() == first
    with pytest.raises(CheckpointError, match="fitted to other weights"):
        safetensors_torch.save_file(published_state(tiny_generator(seed=1).transformer), checkpoint)
        read_confidence(checkpoint, read_generator(checkpoint, played=CONFIG))


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (["--levels", "1,0.5,0.7"], "levels: must fall from 1 towards 0"),
        (["--levels", "1"], "no step after which to stop"),
        (["--height", "40"], "multiples of 16"),
        (["--heldout-rollouts", "1"], "heldout_rollouts: must be at least 2"),
        (["--weights", "generator"], "neither generator_ema nor generator"),
        (["--window", "0"], "window must be at least 1"),
    ],
)
def test_bad_input_is_one_line(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], more: list[str], problem: str
) -> None:
    assert main(command(checkpoint, *more)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("exporters confidence: ") and problem in line
    assert not any(file.exists() for file in confidence_files(checkpoint))


def test_prompts_are_checked(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = command(checkpoint)
    at = arguments.index("--prompts")
    assert main(arguments[:at] + arguments[at + 2 :]) == 2
    assert "this model takes text: give --prompts" in capsys.readouterr().err
    folder = checkpoint.parent
    arrays: list[tuple[dict[str, Any], str]] = [
        ({"a": np.zeros((2, 5, 21))}, r"must be \[N, at most 512, 20\], got \[2, 5, 21\]"),
        ({"a": np.zeros((2, 5, 20)), "b": np.zeros(1)}, "one array, and holds a, b"),
        ({"a": np.full((2, 5, 20), np.nan)}, "finite"),
        ({"a": np.array([{}], object)}, "not a .safetensors or .npz file of numbers"),
    ]
    for content, problem in arrays:
        np.savez(folder / "bad.npz", **content)
        with pytest.raises(CheckpointError, match=problem):
            read_prompts(folder / "bad.npz", CONFIG)
    safetensors_torch.save_file({"p": texts(2).bfloat16()}, folder / "p.safetensors")
    assert torch.equal(read_prompts(folder / "p.safetensors", CONFIG), texts(2).bfloat16().float())
