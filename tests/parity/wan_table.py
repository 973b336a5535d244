"""The table of differences to `diffusers`: `python -m tests.parity.wan_table`."""

from __future__ import annotations

import torch

from tests.parity.test_wan_transformer import NO_ACTION, full_forward, masked_reference
from tests.parity.wan_reference import ours, random, reference, velocity


def whole(head_dim: int) -> tuple[float, float]:
    """Largest difference of a whole video's velocity, and the reference's standard deviation."""
    model = reference(attention_head_dim=head_dim)
    noisy, text, level = random(2, 4, 5, 4, 6), random(2, 5, 20, seed=1), torch.tensor([1.0, 0.625])
    expected = model(noisy, 1000 * level, text).sample
    found = full_forward(ours(model, chunk=5), noisy, level, text)
    return float((found - expected).abs().max()), float(expected.std())


def chunks(head_dim: int, window: int) -> tuple[float, float]:
    """The same of the fifth chunk, from a cache of the four before it, of which the window holds some."""
    model, level = masked_reference(5, window, head_dim), torch.tensor([0.7, 0.7])
    video, text = random(2, 4, 10, 4, 6), random(2, 5, 20, seed=1)
    levels = torch.tensor([0.0] * 4 + [0.7]).expand(2, 5)
    expected = model(video, 1000 * levels.repeat_interleave(12, 1), text).sample[:, :, -2:]
    generator = ours(model, window=window)
    context = generator.empty_context(2, generator.transformer.prompt(text))
    *before, last = video.split(2, dim=2)
    for part in before:
        context = generator.commit(part, torch.zeros(2), NO_ACTION, context)
    clean, _, _ = generator.denoise(last, level, NO_ACTION, context)
    found = velocity(last, clean, level)
    return float((found - expected).abs().max()), float(expected.std())


if __name__ == "__main__":
    print(f"{'':44} largest difference   standard deviation")
    with torch.no_grad():
        for head_dim in (24, 32, 128):
            difference, spread = whole(head_dim)
            print(f"{f'whole video, heads of {head_dim}':44} {difference:18.1e} {spread:20.2f}")
            for window in (2, 6):
                difference, spread = chunks(head_dim, window)
                name = f"fifth chunk, window {window}, heads of {head_dim}"
                print(f"{name:44} {difference:18.1e} {spread:20.2f}")
