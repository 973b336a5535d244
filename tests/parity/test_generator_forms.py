"""The three ways to run the generator agree: a whole clip at once, frame by frame, and through paged pools."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from exporters.model import attention  # noqa: E402
from exporters.model.generator import Generator, GeneratorConfig  # noqa: E402

SMALL = GeneratorConfig(latent_height=4, latent_width=4, dim=48, depth=3, heads=3, temporal_dims=8, window=3)


def small_generator(config: GeneratorConfig = SMALL) -> Generator:
    """A generator with every parameter away from its initial zero, so that no path is silent."""
    torch.manual_seed(0)
    generator = Generator(config)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return generator.eval()


@pytest.mark.parametrize("stem", ["linear", "conv"])
def test_a_clip_at_once_equals_frame_by_frame(stem: str) -> None:
    shape = {"latent_height": 32, "latent_width": 32, "latent_channels": 3, "patch": 8} if stem == "conv" else {}
    config = replace(SMALL, **shape, stem=stem)
    generator = small_generator(config)
    size = (config.latent_channels, config.latent_height, config.latent_width)
    clean, noisy = torch.randn(2, 2, 6, *size)
    level, action = torch.rand(2, 6), torch.randn(2, 6, config.action_width)
    with torch.no_grad():
        whole = generator.teacher_forced(clean, torch.zeros_like(level), noisy, level, action)
        context = generator.empty_context(2)
        for i in range(6):  # twice the window, so that frames leave it
            one, _, _ = generator.denoise(noisy[:, i], level[:, i], action[:, i], context)
            torch.testing.assert_close(one, whole[:, i], rtol=1e-4, atol=1e-5)
            context = generator.commit(clean[:, i], torch.zeros(2), action[:, i], context)


def test_paged_attention_equals_context_attention_in_any_slot_order() -> None:
    torch.manual_seed(1)
    query, key, value = torch.randn(3, 2, 4, 3, 16)
    context_key, context_value = torch.randn(2, 2, 3, 4, 3, 16)
    age = torch.tensor([3, 2, 1])
    dense = attention.context_attention(query, key, value, context_key, context_value, age, 8, 20.0)
    pools = torch.randn(2, 10, 4, 3, 16)
    table = torch.tensor([[7, 2, 5, -1], [0, -1, 9, 4]], dtype=torch.int32)
    ages = torch.tensor([[1, 3, 2, 1], [2, 9, 3, 1]], dtype=torch.int32)
    for b in range(2):
        for slot, old in zip(table[b].tolist(), ages[b].tolist(), strict=True):
            if slot >= 0:
                pools[0, slot], pools[1, slot] = context_key[b, 3 - old], context_value[b, 3 - old]
    paged = attention.paged_attention(query, key, value, pools[0], pools[1], table, ages, 8, 20.0)
    torch.testing.assert_close(paged, dense, rtol=1e-5, atol=1e-6)


def test_an_empty_window_is_attention_inside_the_frame() -> None:
    torch.manual_seed(2)
    query, key, value = torch.randn(3, 1, 4, 2, 8)
    table, ages = torch.full((1, 3), -1, dtype=torch.int32), torch.ones(1, 3, dtype=torch.int32)
    out = attention.paged_attention(query, key, value, *torch.randn(2, 5, 4, 2, 8), table, ages, 4, 20.0)
    plain = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (query, key, value)))
    torch.testing.assert_close(out, plain.transpose(1, 2), rtol=1e-5, atol=1e-6)


def test_frames_beyond_the_window_are_forgotten_and_those_within_are_not() -> None:
    one_layer = small_generator(replace(SMALL, depth=1))
    clean, noisy = torch.randn(2, 1, 9, 16, 4, 4)
    level, action = torch.rand(1, 9), torch.randn(1, 9, 6)
    with torch.no_grad():
        before = one_layer.teacher_forced(clean, torch.zeros_like(level), noisy, level, action)
        clean[:, 2] += 1.0
        after = one_layer.teacher_forced(clean, torch.zeros_like(level), noisy, level, action)
    changed = (before - after).abs().amax(dim=(0, 2, 3, 4)) > 1e-6
    assert changed.tolist() == [False, False, False, True, True, True, False, False, False]
