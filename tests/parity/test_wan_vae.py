"""Wan's video autoencoder against diffusers' `AutoencoderKLWan`, on tiny random models; and its streams."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")
diffusers = pytest.importorskip("diffusers", reason="diffusers, the reference, is not installed")

from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers  # noqa: E402
from torch import Tensor  # noqa: E402

from exporters.importers.checkpoint import CheckpointError  # noqa: E402
from exporters.importers.wan_vae import DIFFUSERS, ORIGINAL, published_names, read_wan_vae  # noqa: E402
from exporters.model.wan_vae.config import WAN_MEAN, WAN_STD, WanVAEConfig  # noqa: E402
from exporters.model.wan_vae.stream import Stream  # noqa: E402
from exporters.model.wan_vae.vae import WanVAE, state_shapes  # noqa: E402

TOLERANCE = 1e-4
HEIGHT, WIDTH = 16, 24
CONFIGS = {
    "as published but narrow": WanVAEConfig(base_width=8),
    "other resolutions": WanVAEConfig(base_width=6, multipliers=(1, 3, 2), temporal=(True, True), blocks=1),
}


def reference_model(config: WanVAEConfig, **other: Any) -> Any:
    """diffusers' model of this shape."""
    return diffusers.AutoencoderKLWan(
        base_dim=config.base_width,
        z_dim=config.latent_channels,
        dim_mult=list(config.multipliers),
        num_res_blocks=config.blocks,
        temperal_downsample=list(config.temporal),
        **other,
    ).eval()


@functools.cache
def pair(name: str) -> tuple[WanVAE, Any]:
    """A random model and diffusers' with the same weights, of which none is neutral, gains and biases neither."""
    config = CONFIGS[name]
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        reference = reference_model(config)
        for parameter_name, parameter in reference.named_parameters():
            if parameter_name.endswith("gamma"):
                parameter.uniform_(0.5, 1.5)
            elif parameter_name.endswith("bias"):
                parameter.normal_(std=0.1)
    vae = WanVAE(config).eval().requires_grad_(False)
    stored = reference.state_dict()
    vae.load_state_dict({own: stored[theirs] for own, theirs in published_names(vae, DIFFUSERS).items()})
    return vae, reference


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def latents(vae: WanVAE, count: int, batch: int = 2) -> Tensor:
    return random(batch, vae.config.latent_channels, count, HEIGHT // vae.config.scale, WIDTH // vae.config.scale)


def decoded(vae: WanVAE, x: Tensor, cuts: list[int]) -> Tensor:
    """Pictures of a stream that comes in chunks of these sizes."""
    state: Stream | None = None
    pictures = []
    for chunk in x.split(cuts, dim=2):
        new, state = vae.decode_chunk(chunk, state)
        pictures.append(new)
    return torch.cat(pictures, dim=2)


@pytest.mark.parametrize("pictures", [1, 5, 9, 13])
@pytest.mark.parametrize("name", CONFIGS)
def test_diffusers_computes_the_same(name: str, pictures: int) -> None:
    vae, reference = pair(name)
    # diffusers leaves the statistics to its callers.
    mean, std = (torch.tensor(values)[:, None, None, None] for values in (WAN_MEAN, WAN_STD))
    video = random(2, 3, pictures, HEIGHT, WIDTH).clamp(-1, 1)
    z = latents(vae, 1 + (pictures - 1) // 4)
    with torch.no_grad():
        encoded = (reference.encode(video).latent_dist.mode() - mean) / std
        shown = reference.decode(z * std + mean).sample
    ours = vae.encode(video), vae.decode(z)
    assert ours[0].shape == encoded.shape == z.shape and ours[1].shape == shown.shape == video.shape
    assert (ours[0] - encoded).abs().max() < TOLERANCE
    assert (ours[1].clamp(-1, 1) - shown).abs().max() < TOLERANCE
    assert encoded.std() > 0.05 and shown.std() > 0.05 and (shown.abs() < 1).float().mean() > 0.9, "silent, or cut off"


@pytest.mark.parametrize("cuts", [[1] * 7, [3, 3, 1], [1, 3, 3], [2, 1, 4]], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_the_cuts_of_a_stream_change_nothing(name: str, cuts: list[int]) -> None:
    vae, _ = pair(name)
    z = latents(vae, 7)
    assert (decoded(vae, z, cuts) - vae.decode(z)).abs().max() < 1e-5
    video = random(2, 3, 25, HEIGHT, WIDTH)
    state: Stream | None = None
    found = []
    for chunk in video.split([4 * n - 3 * (i == 0) for i, n in enumerate(cuts)], dim=2):
        new, state = vae.encode_chunk(chunk, state)
        found.append(new)
    assert (torch.cat(found, dim=2) - vae.encode(video)).abs().max() < 1e-5


def test_streams_take_turns_and_a_state_can_be_used_twice() -> None:
    vae, _ = pair("as published but narrow")
    first, second = latents(vae, 4), latents(vae, 4).flip(0) * 0.5
    expected = [vae.decode(z) for z in (first, second)]
    states: list[Stream | None] = [None, None]
    shown: list[list[Tensor]] = [[], []]
    for i in range(4):
        for stream, z in enumerate((first, second)):
            new, states[stream] = vae.decode_chunk(z[:, :, i : i + 1], states[stream])
            shown[stream].append(new)
    for parts, whole in zip(shown, expected, strict=True):
        assert (torch.cat(parts, dim=2) - whole).abs().max() < 1e-5
    _, begun = vae.decode_chunk(first[:, :, :2], None)
    kept = [tensor.clone() for tensor in begun]
    branches = [vae.decode_chunk(z[:, :, 2:], begun)[0] for z in (first, second, first)]
    assert torch.equal(branches[0], branches[2]) and not torch.equal(branches[0], branches[1])
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(begun, kept, strict=True))


def test_the_state_at_480x832_is_what_the_formula_says() -> None:
    """Two frames of input per causal convolution, one per downsampling in time; in MiB of float32."""
    config = WanVAEConfig()
    w, latent = config.base_width, (480 // 8) * (832 // 8)
    convolutions = [(config.latent_channels, 1), *[(4 * w, 1)] * 4]  # channels, positions over the latent's
    convolutions += [(4 * w, 1)] * 6 + [(4 * w, 1)]  # the last of each line is that of the upsampling in time
    convolutions += [(2 * w, 4)] + [(4 * w, 4)] * 5 + [(4 * w, 4)]
    convolutions += [(2 * w, 16)] * 6
    convolutions += [(w, 64)] * 6 + [(w, 64)]
    expected = sum(2 * channels * positions * latent for channels, positions in convolutions)
    shapes = state_shapes(config, 1, 480, 832)
    assert sum(math.prod(shape) for shape in shapes["decode"]) == expected
    assert len(shapes["decode"]) == len(convolutions)
    assert round(4 * expected / 2**20) == 3602
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in small_state()), "more memory is held"


def small_state() -> Stream:
    vae, _ = pair("as published but narrow")
    _, state = vae.decode_chunk(latents(vae, 3), None)
    shapes = state_shapes(vae.config, 2, HEIGHT, WIDTH)["decode"]
    assert [tuple(tensor.shape) for tensor in state] == shapes
    return state


@pytest.mark.parametrize("frames", [(None, 2), (None, 4), (True, 1), (True, 5), (True, 0)], ids=str)
def test_pictures_that_make_no_whole_latent_are_refused(frames: tuple[bool | None, int]) -> None:
    vae, _ = pair("as published but narrow")
    state = vae.encode_chunk(torch.zeros(1, 3, 1, 8, 8), None)[1] if frames[0] else None
    with pytest.raises(ValueError, match="pictures: their number"):
        vae.encode_chunk(torch.zeros(1, 3, frames[1], 8, 8), state)
    with pytest.raises(ValueError, match="multiples of 8"):
        vae.encode_chunk(torch.zeros(1, 3, 1, 8, 12), None)


def test_both_published_names_give_the_same_model(tmp_path: Path) -> None:
    """diffusers' own conversion of the original file says whether the original names are right."""
    vae, reference = pair("as published but narrow")
    original = {theirs: vae.state_dict()[own] for own, theirs in published_names(vae, ORIGINAL).items()}
    converted = convert_wan_vae_to_diffusers(dict(original))
    stored = reference.state_dict()
    assert converted.keys() == stored.keys()
    assert all(torch.equal(converted[name], value) for name, value in stored.items())
    torch.save(original, tmp_path / "Wan2.1_VAE.pth")
    reference.save_pretrained(tmp_path / "diffusers")
    for path in (tmp_path / "Wan2.1_VAE.pth", tmp_path / "diffusers"):
        loaded = read_wan_vae(path)
        assert loaded.config == vae.config
        assert all(torch.equal(loaded.state_dict()[name], value) for name, value in vae.state_dict().items())
        z = latents(vae, 2)
        assert torch.equal(loaded.decode(z), vae.decode(z))


def test_statistics_and_shape_come_from_the_checkpoint(tmp_path: Path) -> None:
    config = CONFIGS["other resolutions"]
    other = reference_model(config, latents_mean=[0.5] * 16)
    other.save_pretrained(tmp_path)
    loaded = read_wan_vae(tmp_path)
    assert loaded.config == replace(config, mean=(0.5,) * 16)


def test_what_is_not_this_model_is_told_in_one_error(tmp_path: Path) -> None:
    _, reference = pair("as published but narrow")
    stored = reference.state_dict()
    del stored["decoder.mid_block.attentions.0.proj.bias"]
    stored["decoder.extra.weight"] = torch.zeros(1)
    stored["decoder.conv_out.bias"] = torch.zeros(7)
    file = tmp_path / "vae.safetensors"
    safetensors_torch.save_file(stored, file)
    with pytest.raises(
        CheckpointError, match=r"missing \(1\).*attentions.0.proj.*left over.*extra.*wrong shape.*\[7\]"
    ):
        read_wan_vae(file)
    safetensors_torch.save_file({"blocks.0.weight": torch.zeros(1)}, file)
    with pytest.raises(CheckpointError, match="not an autoencoder of Wan"):
        read_wan_vae(file)
    narrow = {"conv2.weight": torch.zeros(4, 4, 1, 1, 1), "encoder.conv1.weight": torch.zeros(8, 3, 3, 3, 3)}
    safetensors_torch.save_file({**narrow, "encoder.downsamples.0.downsamples.0.x": torch.zeros(1)}, file)
    with pytest.raises(CheckpointError, match="its encoder has no layers"):
        read_wan_vae(file)
    safetensors_torch.save_file({**narrow, "encoder.downsamples.0.residual.6.weight": torch.zeros(8, 8, 3, 3, 3)}, file)
    with pytest.raises(CheckpointError, match="4 channels and latents_mean 16 values"):
        read_wan_vae(file)
