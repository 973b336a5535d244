"""Verification passes for the package of a module, and fails for anything else."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from dsa_runtime.form import choose_form  # noqa: E402
from dsa_runtime.package import open_package  # noqa: E402
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
    assert result.graphs["plain: clean"].largest < 1e-4
    assert result.equal_steps == 1.0
    assert 1.0 < result.mean_steps < 3.0, "all frames take the same number of steps, so nothing was decided"
    assert result.pictures.largest <= 3


def test_every_form_that_can_run_is_checked(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_package(small_package()) as package:
        choice = choose_form(package.spec)
    result = verify(dataset)
    if choice.form == "op":
        assert result.forms == ("plain", "op") and not result.unchecked
        assert "forms checked: plain, op\n" in result.table()
        assert 0 < result.graphs["op: clean"].largest < 1e-4
        assert result.graphs["op: write"].largest == 0 and result.graphs["op: write"].values > 0
        assert all(0 < result.between[name].largest < 1e-4 for name in ("clean", "confidence_logit", "commit"))
    monkeypatch.setenv("DSA_OPS_LIBRARY", "none")
    result = verify(dataset)
    assert result.passed and result.forms == ("plain",) and not result.between
    assert "forms checked: plain; not op: DSA_OPS_LIBRARY is 'none'" in result.table()


def test_weights_as_trained_differ_by_what_storage_costs(dataset: Path) -> None:
    stored, trained = verify(dataset), verify(dataset, as_trained=True)
    assert trained.weights == "as trained"
    assert trained.graphs["plain: clean"].largest > 3 * stored.graphs["plain: clean"].largest


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
    outputs = {"clean", "confidence_logit", "commit"}
    assert set(document["graphs"]) == {"encode", "decode"} | {
        f"{f}: {o}" for f in document["forms"] for o in outputs
    } | ({"op: write"} if "op" in document["forms"] else set())
    assert set(document["pictures"]) == {"largest", "mean", "share_apart"}


def test_nan_is_a_difference() -> None:
    difference = Difference()
    difference.add(np.array([1.0, np.nan]), np.array([1.0, np.nan]))
    assert difference.largest == np.inf and difference.apart == 1


def test_too_few_equal_steps_fail() -> None:
    assert [outcome(equal_steps=share).passed for share in (0.995, 0.994)] == [True, False]


def test_a_tensor_or_forms_too_far_apart_fail() -> None:
    assert outcome(graphs={"op: clean": Difference(2e-3), "decode": Difference()}).passed is False
    assert outcome(graphs={"op: clean": Difference(5e-4), "decode": Difference(1)}).passed is True
    assert [outcome(between={"commit": Difference(gap)}).passed for gap in (9e-5, 2e-4)] == [True, False]


def outcome(**changes: Any) -> Verification:
    """One that passes, but for the changes."""
    fields: dict[str, Any] = {
        "world": "w", "version": "1", "weights": "as stored", "clips": 1, "frames": 1000, "threshold": 0.5,
        "forms": ("plain", "op"), "unchecked": "", "graphs": {"decode": Difference()}, "between": {},
        "pictures": Difference(), "confidence": Difference(), "equal_steps": 1.0, "mean_steps": 2.0, "limits": Limits(),
    }  # fmt: skip
    return Verification(**{**fields, **changes})
