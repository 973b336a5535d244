"""Verification passes for the package of a module, and fails for anything else."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from exporters.packaging.verification import Difference, Limits, Verification  # noqa: E402
from exporters.packaging.verify import verify_package  # noqa: E402
from exporters.recording.dataset import DatasetWriter  # noqa: E402
from exporters.recording.episode import Episode  # noqa: E402
from tests.small_world import PICTURE, small_autoencoder, small_generator, small_package  # noqa: E402

FRAMES = 24


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Blurred noise that drifts: pictures with structure, unlike each other."""
    folder = tmp_path_factory.mktemp("recordings")
    height, width, channels = PICTURE
    frame = {"height": height, "width": width, "channels": channels, "fps": 20.0}
    space = {"type": "Discrete", "n": 3, "names": ["noop", "left", "right"]}
    writer = DatasetWriter.create(folder, name="t", frame=frame, action_space=space, licence="CC0", source="test")
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (40, height // 4, width // 4, 3), np.uint8)
    frames = coarse.repeat(4, axis=1).repeat(4, axis=2)
    writer.add("test", Episode(frames, rng.integers(0, 3, 39), np.zeros(40, bool), np.zeros(39, np.float32)), seed=0)
    return writer.finish().folder


def verify(dataset: Path, generator: object = None, autoencoder: object = None, **options: object) -> Verification:
    return verify_package(
        small_package(),
        generator or small_generator(),  # type: ignore[arg-type]
        autoencoder or small_autoencoder(),  # type: ignore[arg-type]
        dataset,
        frames=FRAMES,
        clip_frames=8,
        **options,  # type: ignore[arg-type]
    )


def test_its_own_package_passes(dataset: Path) -> None:
    result = verify(dataset)
    assert result.passed, result.table()
    assert (result.clips, result.frames) == (3, FRAMES)
    assert result.graphs["denoise: clean"].largest < 1e-4
    assert result.equal_steps == 1.0
    assert 1.0 < result.mean_steps < 3.0, "all frames take the same number of steps, so nothing was decided"
    assert result.pictures.largest <= 3


def test_weights_as_trained_differ_by_what_storage_costs(dataset: Path) -> None:
    stored, trained = verify(dataset), verify(dataset, as_trained=True)
    assert trained.weights == "as trained"
    assert trained.graphs["denoise: clean"].largest > 3 * stored.graphs["denoise: clean"].largest


@pytest.mark.parametrize("part", ["generator", "confidence", "decoder", "encoder"])
def test_other_weights_fail(dataset: Path, part: str) -> None:
    generator, autoencoder = copy.deepcopy(small_generator()), copy.deepcopy(small_autoencoder())
    changed = {
        "generator": generator.blocks[1].out.weight,
        "confidence": generator.confidence.out.bias,
        "decoder": autoencoder.decoder[0].weight,
        "encoder": autoencoder.encoder[1].weight,
    }[part]
    with torch.no_grad():
        changed.add_(0.05)
    result = verify(dataset, generator, autoencoder)
    assert not result.passed
    assert "FAILED" in result.table()


def test_report_as_json(dataset: Path) -> None:
    document = json.loads(verify(dataset).to_json())
    assert document["passed"] is True and document["frames"] == FRAMES
    assert set(document["graphs"]) == {"encode", "denoise: clean", "denoise: logit", "commit", "decode"}
    assert set(document["pictures"]) == {"largest", "mean", "share_apart"}


def test_nan_is_a_difference() -> None:
    difference = Difference()
    difference.add(np.array([1.0, np.nan]), np.array([1.0, np.nan]))
    assert difference.largest == np.inf and difference.apart == 1


def test_too_few_equal_steps_fail() -> None:
    fine = {name: Difference() for name in ("denoise: clean", "decode")}
    results = [
        Verification("w", "1", "as stored", 1, 1000, 0.5, fine, Difference(), Difference(), share, 2.0, Limits())
        for share in (0.995, 0.994)
    ]
    assert [result.passed for result in results] == [True, False]
