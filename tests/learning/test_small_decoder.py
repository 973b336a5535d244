"""The small decoder: its streams, and that it learns to draw what the full one does."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")
for needed in ("dacite", "sklearn", "onnxscript", "pytorch_msssim"):
    pytest.importorskip(needed)

from exporters.__main__ import main  # noqa: E402
from exporters.importers.wan_vae import ORIGINAL, published_names  # noqa: E402
from exporters.model.small_decoder import SmallDecoder, SmallDecoderConfig, load_small_decoder  # noqa: E402
from exporters.model.wan_vae.config import WanVAEConfig  # noqa: E402
from exporters.model.wan_vae.stream import Stream  # noqa: E402
from exporters.model.wan_vae.vae import WanVAE  # noqa: E402
from exporters.training.small_decoder import SmallDecoderTraining, train_small_decoder  # noqa: E402
from exporters.training.stage import Budget  # noqa: E402

CPU = torch.device("cpu")
TRAINING = SmallDecoderTraining(
    model=SmallDecoderConfig(widths=(24, 16, 12)), budget=Budget(steps=40), batch=4, learning_rate=1e-2
)


@functools.cache
def tiny_vae() -> WanVAE:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return WanVAE(WanVAEConfig(base_width=4, multipliers=(1, 1, 1, 1), blocks=1)).eval().requires_grad_(False)


@functools.cache
def clips() -> torch.Tensor:
    return torch.randn(64, 16, 2, 4, 4, generator=torch.Generator().manual_seed(1))


def random_decoder() -> SmallDecoder:
    """Every weight random: untrained, its residual blocks do nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        decoder = SmallDecoder(SmallDecoderConfig(widths=(16, 12, 8))).eval().requires_grad_(False)
        for parameter in decoder.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return decoder


@pytest.mark.parametrize("cuts", [[1] * 5, [3, 2], [2, 1, 2]], ids=str)
def test_the_cuts_of_a_stream_change_nothing(cuts: list[int]) -> None:
    decoder = random_decoder()
    latents = torch.randn(2, 16, 5, 2, 3, generator=torch.Generator().manual_seed(3))
    whole = decoder.decode(latents)
    assert whole.shape == (2, 3, 17, 16, 24)
    state: Stream | None = None
    pictures = []
    for chunk in latents.split(cuts, dim=2):
        made, state = decoder.decode_chunk(chunk, state)
        pictures.append(made)
    assert (torch.cat(pictures, dim=2) - whole).abs().max() < 1e-5
    latents[:, :, 2] += 1.0
    changed = (decoder.decode(latents) - whole).abs().amax(dim=(0, 1, 3, 4)) > 1e-6
    assert changed.tolist().index(True) == 5, "a latent's own pictures are the first that it changes"
    assert changed[9], "and the next latent's remember it"


def test_it_learns_what_the_full_decoder_draws_and_resumes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    once = replace(TRAINING, budget=Budget(steps=1))
    _, before = train_small_decoder(once, tmp_path / "once", tiny_vae(), clips(), CPU, None)
    decoder, after = train_small_decoder(TRAINING, tmp_path / "run", tiny_vae(), clips(), CPU, None)
    assert after["psnr_db"] > before["psnr_db"] + 5
    stored = load_small_decoder(tmp_path / "run" / "small_decoder.safetensors")
    assert torch.equal(stored.decode(clips()[:1]), decoder.decode(clips()[:1]))
    again, gate = train_small_decoder(TRAINING, tmp_path / "run", tiny_vae(), clips(), CPU, None)
    assert gate == after and torch.equal(again.decode(clips()[:1]), decoder.decode(clips()[:1]))
    with pytest.raises(ValueError, match="trained on another latents"):
        train_small_decoder(TRAINING, tmp_path / "run", tiny_vae(), clips() + 1, CPU, None)


def test_the_command_writes_a_decoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vae, latents = tmp_path / "vae.safetensors", tmp_path / "latents.npz"
    names = published_names(tiny_vae(), ORIGINAL)
    safetensors_torch.save_file({names[own]: value for own, value in tiny_vae().state_dict().items()}, vae)
    np.savez(latents, clips()[:3].numpy())
    line = ["small-decoder", str(vae), "--latents", str(latents), "--out", str(tmp_path / "out")]
    line += ["--steps", "1", "--perceptual", "none", "--device", "cpu"]
    assert main(line) == 0, capsys.readouterr().err
    gate = json.loads(capsys.readouterr().out.rpartition("gate ")[2])
    assert gate["psnr_db"] > 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "small_decoder.safetensors", "small-decoder.pt", "small-decoder.png", "metrics.jsonl",
    }  # fmt: skip
    decoder = load_small_decoder(tmp_path / "out" / "small_decoder.safetensors")
    assert decoder.decode(clips()[:1]).shape == (1, 3, 5, 32, 32)
    with pytest.raises(ValueError, match="not a small decoder"):
        load_small_decoder(vae)


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ((3, 8, 2, 4, 4), "must be floats [clips, 16, frames, height, width], got torch.float32 [3, 8, 2, 4, 4]"),
        ((3, 16, 4, 4), "must be floats"),
        ((1, 16, 2, 4, 4), "at least 2 clips"),
        ((3, 16, 2, 4, 3), "4x4 are needed"),
    ],
)
def test_latents_that_do_not_fit_are_told(tmp_path: Path, shape: tuple[int, ...], problem: str) -> None:
    with pytest.raises(ValueError) as error:
        train_small_decoder(TRAINING, tmp_path, tiny_vae(), torch.zeros(shape), CPU, None)
    assert problem in str(error.value)
    bad = torch.zeros(3, 16, 2, 4, 4)
    bad[2, 0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        train_small_decoder(TRAINING, tmp_path, tiny_vae(), bad, CPU, None)
    assert not list(tmp_path.iterdir())
