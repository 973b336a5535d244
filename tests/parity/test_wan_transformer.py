"""Wan's transformer: the numbers of `diffusers`, whole, without text, and chunk by chunk from a cache.

The causal form has its reference in `diffusers` as well: the whole video at once, at absolute positions, under a mask.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")
pytest.importorskip(
    "diffusers", reason="diffusers, the reference for Wan, is not installed (extra `dev`; needs Python 3.11)"
)

from diffusers import WanTransformer3DModel  # noqa: E402
from torch import Tensor  # noqa: E402

from dsa_runtime.ops.reference import paged_frame_attention  # noqa: E402
from exporters.importers.wan import PLAYED as PLAYED_AS_PUBLISHED  # noqa: E402
from exporters.importers.wan import build, config_of  # noqa: E402
from exporters.importers.wan_names import DIFFUSERS, published_name  # noqa: E402
from exporters.model.rollout import rollout, warm_context  # noqa: E402
from exporters.model.wan.config import WAN_1_3B, WAN_14B, WanConfig  # noqa: E402
from exporters.model.wan.generator import WanGenerator  # noqa: E402
from exporters.model.wan.transformer import WanTransformer, parameter_dtype  # noqa: E402
from tests.parity.wan_reference import checkpoint, ours, random, reference, velocity  # noqa: E402

TOLERANCE = 1e-4
NO_ACTION = torch.zeros(2, 0)


def full_forward(generator: WanGenerator, noisy: Tensor, level: Tensor, text: Tensor | None) -> Tensor:
    """The velocity of a video that is one chunk and has no past: Wan as it was published."""
    prompt = None if text is None else generator.transformer.prompt(text)
    context = generator.empty_context(len(noisy), prompt)
    clean, _, _ = generator.denoise(noisy, level, NO_ACTION, context)
    return velocity(noisy, clean, level)


@pytest.mark.parametrize("head_dim", [24, 32, 128])
def test_full_forward(head_dim: int) -> None:
    """Sections of 8, 8, 8, of 12, 10, 10, and of 44, 42, 42 dims, the published split."""
    model = reference(attention_head_dim=head_dim)
    noisy, text, level = random(2, 4, 5, 4, 6), random(2, 5, 20, seed=1), torch.tensor([1.0, 0.625])
    with torch.no_grad():
        expected = model(noisy, 1000 * level, text).sample
        found = full_forward(ours(model, chunk=5), noisy, level, text)
        # Not from the zeros that fill up a shorter prompt: those are attended to, as in the original.
        short = full_forward(ours(model, chunk=5), noisy, level, text[:, :3])
        filled = model(noisy, 1000 * level, torch.cat([text[:, :3], torch.zeros(2, 2, 20)], 1)).sample
    assert expected.std() > 0.3
    assert (found - expected).abs().max() < TOLERANCE
    assert (short - filled).abs().max() < TOLERANCE
    assert (filled - expected).abs().max() > 100 * TOLERANCE


def test_unconditioned_is_cross_attention_left_out() -> None:
    """In the reference that is a cross-attention whose output projection is zero; an empty text is something else."""
    model = reference()
    for block in model.blocks:
        block.attn2.to_out[0].weight.zero_()
        block.attn2.to_out[0].bias.zero_()
    without = {k: v for k, v in model.state_dict().items() if not any(p in k for p in ("attn2", "norm2", "text_"))}
    generator = build(checkpoint(without, num_attention_heads=2), ours(model).config, torch.float32)
    assert generator.config.text_width == 0
    noisy, level = random(2, 4, 2, 4, 6), torch.tensor([0.9, 0.3])
    with torch.no_grad():
        expected = model(noisy, 1000 * level, random(2, 5, 20, seed=1)).sample
        assert (full_forward(generator, noisy, level, None) - expected).abs().max() < TOLERANCE
    with pytest.raises(ValueError, match="prompt"):
        generator.transformer.prompt(random(1, 5, 20))


class Masked:
    """The reference's own attention, under a mask of which token may see which."""

    def __init__(self, processor: Any, mask: Tensor) -> None:
        self.processor, self.mask = processor, mask

    def __call__(self, attn: Any, hidden: Tensor, text: Any, _: Any, rotary: Any, **options: Any) -> Tensor:
        return self.processor(attn, hidden, text, self.mask, rotary, **options)


def masked_reference(chunks: int, window: int, head_dim: int = 24) -> Any:
    """A reference in which every chunk of 12 tokens sees itself and the `window` chunks before it."""
    model = reference(attention_head_dim=head_dim)
    chunk = torch.arange(chunks * 12) // 12
    age = chunk[:, None] - chunk
    for block in model.blocks:
        block.attn1.set_processor(Masked(block.attn1.processor, (age >= 0) & (age <= window)))
    return model


@pytest.mark.parametrize("window", [1, 2, 6])
def test_chunks_from_the_cache_are_one_masked_forward(window: int) -> None:
    """Five chunks, of which some have left the smaller windows; each has a level of its own, the last is noisy."""
    chunks, levels = 5, torch.tensor([0.0, 0.1, 0.0, 0.0, 0.7]).expand(2, 5)
    model = masked_reference(chunks, window)
    video, text = random(2, 4, 2 * chunks, 4, 6), random(2, 5, 20, seed=1)
    generator = ours(model, window=window)
    with torch.no_grad():
        # A level per token is what the reference has for Wan2.2; Self-Forcing has one per frame.
        expected = model(video, 1000 * levels.repeat_interleave(12, 1), text).sample[:, :, -2:]
        context = generator.empty_context(2, generator.transformer.prompt(text))
        parts = video.split(2, dim=2)
        for i, part in enumerate(parts[:-1]):
            context = generator.commit(part, levels[:, i], NO_ACTION, context)
        clean, taps, condition = generator.denoise(parts[-1], levels[:, -1], NO_ACTION, context)
    found = velocity(parts[-1], clean, levels[:, -1])
    assert (found - expected).abs().max() < TOLERANCE
    assert context.keys[0].shape == (2, min(4, window), 12, 2, 24)
    assert [t.shape for t in taps] == [(2, 12, 48)] * 3 and condition.shape == (2, 48)


@pytest.mark.parametrize(("window", "sink"), [(2, 0), (6, 0), (2, 1)])
def test_teacher_forcing_is_chunk_by_chunk(window: int, sink: int) -> None:
    generator = ours(reference(), window=window, sink=sink)
    clean, noisy = random(2, 4, 4, 2, 4, 6), random(2, 4, 4, 2, 4, 6, seed=2)
    clean_level, level = 0.1 * torch.rand(2, 4), torch.linspace(0.2, 1, 8).view(2, 4)
    prompt = generator.transformer.prompt(random(2, 5, 20, seed=1))
    action = torch.zeros(2, 4, 0)
    with torch.no_grad():
        found = generator.teacher_forced(clean, clean_level, noisy, level, action, prompt)
        context = generator.empty_context(2, prompt)
        for i in range(4):
            expected, _, _ = generator.denoise(noisy[:, i], level[:, i], action[:, i], context)
            assert (found[:, i] - expected).abs().max() < TOLERANCE, i
            first = context.keys[0][:, :1]
            context = generator.commit(clean[:, i], clean_level[:, i], action[:, i], context)
            assert i < window or torch.equal(context.keys[0][:, :1], first) == bool(sink)


def test_a_cached_chunk_is_what_the_operator_takes() -> None:
    """`dsa.PagedFrameAttention` with a chunk as its frame and its age in latent frames."""
    generator = ours(reference(attention_head_dim=32))
    c = generator.config
    query, key, value = (random(1, c.tokens, 2, 32, seed=i) for i in range(3))
    pools = [random(4, c.tokens, 2, 32, seed=i) for i in (3, 4)]
    table = np.array([[3, 1]], np.int32)
    age = c.chunk * np.array([[2, 1]], np.int32)
    options = {"temporal_dims": c.temporal_dims, "theta": c.theta}
    expected = paged_frame_attention(*(x.numpy() for x in (query, key, value, *pools)), table, age, **options)
    context = ours(reference(attention_head_dim=32)).empty_context(1, generator.transformer.prompt(random(1, 5, 20)))
    past = [x[[3, 1]].unsqueeze(0) for x in pools]
    context = replace(context, keys=(past[0],) * 3, values=(past[1],) * 3)
    found = generator._attends(context)[0](query, key, value)
    assert np.abs(found.numpy() - expected).max() < TOLERANCE


def test_a_rollout_plays_it() -> None:
    generator = ours(reference())
    prompt = generator.transformer.prompt(random(2, 5, 20, seed=1))
    begin = warm_context(generator, random(2, 1, 4, 2, 4, 6), torch.zeros(2, 1, 0), generator.empty_context(2, prompt))
    rng = torch.Generator().manual_seed(3)
    levels, action = (1.0, 0.9, 0.6), torch.zeros(2, 4, 0)
    latents, steps = rollout(generator, levels, begin, action, lambda k, e: torch.tensor([k >= 1, k >= 2]), rng=rng)
    assert latents.shape == (2, 4, 4, 2, 4, 6) and latents.isfinite().all()
    assert steps.tolist() == [[1] * 4, [2] * 4]
    other = generator.empty_context(2, generator.transformer.prompt(random(2, 5, 20, seed=9)))
    again, _ = rollout(generator, levels, other, action, rng=torch.Generator().manual_seed(3))
    assert (again - latents).abs().max() > 0.01  # the prompt is heard
    with pytest.raises(ValueError, match="prompt"):
        generator.empty_context(2)


def test_an_action_moves_the_noise_levels_embedding() -> None:
    torch.manual_seed(0)
    model = reference()
    plain = ours(model)
    config = replace(plain.config, action_width=3)
    told = WanGenerator(WanTransformer(config))
    told.transformer.load_state_dict(plain.transformer.state_dict(), strict=False)
    noisy, level, action = random(2, 4, 2, 4, 6), torch.tensor([0.9, 0.3]), random(2, 3)
    prompt = plain.transformer.prompt(random(2, 5, 20, seed=1))
    with torch.no_grad():
        without, _, base = plain.denoise(noisy, level, NO_ACTION, plain.empty_context(2, prompt))
        found, _, moved = told.denoise(noisy, level, action, told.empty_context(2, prompt))
        assert torch.equal(moved, base + told.transformer.action_embed(action))
    assert (found - without).abs().max() > 0.01


def test_in_bf16_what_the_noise_level_makes_stays_in_float32() -> None:
    model = reference()
    exact, rounded = ours(model), ours(model, torch.bfloat16)
    kinds = {name: value.dtype for name, value in rounded.transformer.named_parameters()}
    assert kinds["blocks.0.query.weight"] == kinds["text_rise.weight"] == torch.bfloat16
    assert (
        kinds["blocks.0.modulation"] == kinds["level_rise.bias"] == kinds["blocks.0.key_norm.weight"] == torch.float32
    )
    assert all(kinds[name] == parameter_dtype(name, torch.bfloat16) for name in kinds)
    noisy, text, level = random(2, 4, 2, 4, 6), random(2, 5, 20, seed=1), torch.tensor([1.0, 0.625])
    with torch.no_grad():
        one, other = (full_forward(g, noisy, level, text) for g in (exact, rounded))
    assert other.dtype == torch.float32
    assert 0 < (one - other).abs().mean() < 0.05 * one.std()


@pytest.mark.parametrize("config", [WAN_1_3B, WAN_14B], ids=["1.3b", "14b"])
def test_published_sizes(config: WanConfig) -> None:
    """Every tensor of the published shapes has its place here; no memory is taken for any."""
    shape = {"num_attention_heads": config.heads, "ffn_dim": config.mlp_width, "num_layers": config.depth}
    with torch.device("meta"):
        published = WanTransformer3DModel(attention_head_dim=128, **shape).state_dict()
        here = WanTransformer(config).state_dict()
    assert config_of(checkpoint(published), PLAYED_AS_PUBLISHED) == config
    assert {published_name(name, DIFFUSERS): value.numel() for name, value in here.items()} == {
        name: value.numel() for name, value in published.items()
    }
    assert (WAN_1_3B.taps, WAN_14B.taps) == ((13, 21, 29), (19, 29, 39))
    assert (config.temporal_dims, config.tokens) == (44, 4680)
