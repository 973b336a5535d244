"""Noise is a pure function of (seed, tick, step), reproducible without numpy's distributions."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dsa_runtime.noise import NoiseSource, noise

MASK = 2**64 - 1


def philox4x64(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x64-10 from the Random123 paper, written independently of numpy."""
    for round_ in range(10):
        if round_:
            key = [(key[0] + 0x9E3779B97F4A7C15) & MASK, (key[1] + 0xBB67AE8584CAA73B) & MASK]
        left, right = counter[0] * 0xD2E7470EE14C6C93, counter[2] * 0xCA5A826395121157
        counter = [
            (right >> 64) ^ counter[1] ^ key[0],
            right & MASK,
            (left >> 64) ^ counter[3] ^ key[1],
            left & MASK,
        ]
    return counter


def test_noise_follows_its_documented_construction() -> None:
    seed, tick, step, size = 2**63 + 7, 123456789, 3, 10
    words = [w for block in range(3) for w in philox4x64([block + 1, 0, step, tick], [seed, 0])][:size]
    expected = []
    for turn in (math.cos, math.sin):
        for first, second in zip(words[:5], words[5:], strict=True):
            u, v = ((first >> 11) + 1) * 2.0**-53, (second >> 11) * 2.0**-53
            expected.append(math.sqrt(-2 * math.log(u)) * turn(2 * math.pi * v))
    np.testing.assert_allclose(noise((size,), seed, tick, step), expected, rtol=2e-7)


def test_same_key_same_noise_whatever_was_drawn_before() -> None:
    reference = noise((16, 8, 8), 5, 6, 2)
    source = NoiseSource(1024, 4)
    for key in ((1, 1), (5, 7), (5, 6), (5, 6)):
        drawn = source.draw(*key)
    assert drawn.dtype == np.float32
    np.testing.assert_array_equal(drawn[1].reshape(16, 8, 8), reference)


def test_every_part_of_the_key_matters() -> None:
    keys = [(seed, tick, step) for seed in (0, 1, 2**64 - 1) for tick in (0, 1, 2**40) for step in (1, 2)]
    draws = {noise((4,), *key).tobytes() for key in keys}
    assert len(draws) == len(keys)


def test_threads_do_not_change_the_noise() -> None:
    keys = [(seed, tick, 1) for seed in range(4) for tick in range(25)]
    alone = [noise((64,), *key) for key in keys]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda key: noise((64,), *key), keys))
    np.testing.assert_array_equal(together, alone)


def test_noise_is_standard_normal() -> None:
    values = noise((400_000,), 42, 0, 1).astype(np.float64)
    assert np.isfinite(values).all()
    standard_error = 1 / math.sqrt(values.size)
    assert abs(values.mean()) < 5 * standard_error
    assert abs(values.var() - 1) < 5 * math.sqrt(2) * standard_error
    assert abs((values**3).mean()) < 5 * math.sqrt(15) * standard_error
    assert abs((values**4).mean() - 3) < 5 * math.sqrt(96) * standard_error
    assert abs(np.mean(np.abs(values) < 1) - math.erf(1 / math.sqrt(2))) < 5 * 0.5 * standard_error
    neighbours = np.corrcoef(values[:-1], values[1:])[0, 1]
    halves = np.corrcoef(values[:200_000], values[200_000:])[0, 1]  # cosine against sine
    assert max(abs(neighbours), abs(halves)) < 5 * math.sqrt(2) * standard_error


def test_odd_sizes() -> None:
    assert noise((7,), 1, 2, 3).shape == (7,)
    assert noise((1,), 1, 2, 3).shape == (1,)
