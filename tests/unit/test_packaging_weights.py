"""What goes into a package: rounded copies of the modules, and one weights file."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from exporters.packaging.rounding import LARGE_VALUES, deployed_autoencoder, deployed_generator  # noqa: E402
from exporters.packaging.weights_file import ALIGNMENT, WeightsFile  # noqa: E402
from tests.small_world import PICTURE, small_autoencoder, small_generator  # noqa: E402


def test_equal_bytes_are_stored_once_and_aligned(tmp_path: Path) -> None:
    weights = WeightsFile("weights.bin")
    first = weights.add(b"a" * 5000)
    second = weights.add(b"b" * 10)
    assert weights.add(b"a" * 5000) == first
    assert first != second and first % ALIGNMENT == second % ALIGNMENT == 0
    weights.write(tmp_path)
    content = (tmp_path / "weights.bin").read_bytes()
    assert len(content) == len(weights)
    assert content[first : first + 5000] == b"a" * 5000 and content[second:] == b"b" * 10


def test_an_older_file_is_added_to(tmp_path: Path) -> None:
    old = b"a" * 5000 + b"-" * 3192 + b"b" * 10
    weights = WeightsFile("weights.bin", old, [(0, 5000), (8192, 10)])
    assert [weights.add(b"b" * 10), weights.add(b"a" * 5000), len(weights)] == [8192, 0, len(old)]
    assert weights.add(b"c" * 7) == 3 * ALIGNMENT
    weights.write(tmp_path)
    assert (tmp_path / "weights.bin").read_bytes() == old + bytes(12288 - len(old)) + b"c" * 7


def test_large_weights_are_rounded_to_float16_and_small_ones_kept() -> None:
    original = small_generator()
    before = {name: value.clone() for name, value in original.state_dict().items()}
    deployed = deployed_generator(original).state_dict()
    rounded = [name for name, value in deployed.items() if not torch.equal(value, before[name])]
    assert rounded and all(before[name].numel() >= LARGE_VALUES for name in rounded)
    for name in rounded:
        assert torch.equal(deployed[name], before[name].half().float())
    for name, value in original.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} of the original was changed"


def test_unrounded_copy_has_the_same_weights() -> None:
    deployed = deployed_generator(small_generator(), rounded=False).state_dict()
    assert all(torch.equal(value, deployed[name]) for name, value in small_generator().state_dict().items())


def test_a_weight_beyond_float16_is_refused() -> None:
    module = deployed_generator(small_generator(), rounded=False)
    with torch.no_grad():
        module.blocks[0].rise.weight[0, 0] = 1e6
    with pytest.raises(ValueError, match="float16"):
        deployed_generator(module)


def test_the_normalisation_is_folded() -> None:
    module = small_autoencoder()
    picture = torch.rand(2, 3, *PICTURE[:2]) * 2 - 1
    with torch.no_grad():
        expected = module.encode(picture)
        unnormalised = module.encoder(picture)
        torch.testing.assert_close(deployed_autoencoder(module, rounded=False).encode(picture), expected)
    assert (unnormalised - expected).abs().max() > 0.1, "the fixture's normalisation does nothing"
