"""The autoencoder of a package, found in its graphs again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("dacite")
pytest.importorskip("sklearn")

from dsa_runtime.ort import ort  # noqa: E402
from dsa_runtime.package import Package, open_package  # noqa: E402
from exporters.model.autoencoder import Autoencoder  # noqa: E402
from exporters.packaging.graphs import DecodeGraph, EncodeGraph  # noqa: E402
from exporters.packaging.recover_autoencoder import recover_autoencoder  # noqa: E402
from exporters.packaging.rounding import deployed_autoencoder  # noqa: E402
from tests.small_world import AUTOENCODER, PICTURE, small_autoencoder, small_package  # noqa: E402


@pytest.fixture(scope="module")
def package() -> Iterator[Package]:
    with open_package(small_package()) as opened:
        yield opened


@pytest.fixture(scope="module")
def recovered(package: Package) -> Autoencoder:
    return recover_autoencoder(package, AUTOENCODER)


def test_every_parameter_is_recovered_to_the_bit(recovered: Autoencoder) -> None:
    found = recovered.state_dict()
    expected = deployed_autoencoder(small_autoencoder()).state_dict()
    assert found.keys() - expected.keys() == {
        f"normalise.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")
    }
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_it_computes_what_the_package_does(package: Package, recovered: Autoencoder) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (5, *PICTURE), np.uint8)
    encode, decode = (
        ort.InferenceSession(str(package.path(package.spec.graphs[name])), providers=["CPUExecutionProvider"])
        for name in ("encode", "decode")
    )
    latents = encode.run(None, {"frame": frames})[0]
    assert latents.std() > 0.5, "the fixture's latents say nothing"
    np.testing.assert_allclose(EncodeGraph(recovered)(torch.from_numpy(frames)).numpy(), latents, atol=1e-3)
    latents = rng.normal(size=latents.shape).astype(np.float32)
    pictures = decode.run(None, {"latent": latents})[0].astype(int)
    assert pictures.std() > 10, "the fixture's pictures say nothing"
    assert abs(DecodeGraph(recovered)(torch.from_numpy(latents)).numpy() - pictures).max() <= 1


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"latent_channels": 8}, "latent channels of the package and of the recipe differ: 4 and 8"),
        ({"picture_channels": 1}, "picture channels of the package and of the recipe differ: 3 and 1"),
        ({"widths": (16, 16, 32)}, r"shape of decoder.0.weight is \[16, 4, 3, 3\], in the recipe \[32, 4, 3, 3\]"),
        ({"decoder_blocks": 2}, "decode.onnx: not the operators that an autoencoder of this recipe is exported to"),
    ],
    ids=["latent", "picture", "widths", "blocks"],
)
def test_another_recipe_is_refused(package: Package, change: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        recover_autoencoder(package, dataclasses.replace(AUTOENCODER, **change))
