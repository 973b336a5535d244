"""The benchmark of the full shape: its caches beside the model's own context, and one short run on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch

from dsa_runtime.cost import this_cpu
from exporters.model.wan.config import WanConfig
from exporters.model.wan.context import WanContext
from tests import cuda_launch
from tests.bench import bench_wan, wan_candidates

CONFIG = WanConfig(
    dim=48, depth=2, heads=2, mlp_width=32, text_width=0, text_tokens=0, latent_height=4, latent_width=6, window=2
)


def test_candidates_follow_the_model_from_chunk_to_chunk() -> None:
    """Past the point where the ring has come round and every slot of the pool has been used again."""
    generator = wan_candidates.make_generator(CONFIG, "cpu", torch.float32)
    context: WanContext = wan_candidates.random_context(CONFIG, "cpu", torch.float32)
    candidates = list(wan_candidates.candidates(generator, context, None, compiled=False))
    assert [candidate.name for candidate in candidates] == ["torch", "dsa"]
    action, level = torch.empty(1, 0), torch.full((1,), 0.8)
    for chunk in range(4):
        noisy = torch.randn(1, *CONFIG.latent_shape, generator=torch.Generator().manual_seed(chunk))
        with torch.no_grad():
            clean, taps, condition = generator.denoise(noisy, level, action, context)
            logit = generator.confidence(taps, condition)
            context = generator.commit(clean, torch.zeros(1), action, context)
        for candidate in candidates:
            found = candidate.denoise(noisy, level)
            assert torch.allclose(found[0], clean, atol=1e-4) and torch.allclose(found[1], logit, atol=1e-4)
            candidate.commit(clean)


def test_a_tiny_run_ends_with_one_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "wan.json"
    monkeypatch.setattr(this_cpu, "_SIDE", 64)
    monkeypatch.setattr(this_cpu, "_COPIED", 1 << 16)
    if cuda_launch.no_gpu() is None:
        pytest.skip("a GPU's run is measured by hand")
    assert bench_wan.main(["--tiny", "--eager", "--rounds", "1", "--json", str(file)]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line == json.loads(file.read_text())
    assert line["left_out"] == {} and line["predicted"]["predicted"] is True
    stages = {(row["candidate"], row["stage"]) for row in line["stages"]}
    assert stages == {(name, stage) for name in ("torch", "dsa") for stage in ("denoising step", "commit")} | {
        (name, f"decode, {name}") for name in ("full", "small")
    }
    for row in line["stages"]:
        assert row["median_ms"] > 0 and row["roofline_ms"] > 0
    steps = [(row["decoder"], row["steps"]) for row in line["ticks"] if row["candidate"] == "dsa"]
    assert steps == [("none", n) for n in (1, 2, 3, 4)] + [(name, 16 / 7) for name in ("none", "full", "small")]
    for row in line["ticks"]:
        assert row["fps"] == pytest.approx(12e3 / row["chunk_ms"]) and row["predicted_fps"] > 0


def test_without_a_gpu_only_the_tiny_model(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cuda_launch, "no_gpu", lambda: "PyTorch sees no GPU")
    assert bench_wan.main([]) == 2
    assert "cannot run: PyTorch sees no GPU" in capsys.readouterr().err
