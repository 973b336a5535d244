"""Counter-based Gaussian noise keyed by (seed, tick, step): the same numbers on any thread, in any order.

Philox4x64-10 (the generator of Random123, as numpy implements it) under the key (seed, 0) yields for the
counter (block + 1, 0, step, tick) four 64-bit words; blocks follow each other. For n values (rounded up to an
even number) n words w are drawn and split in half. With u = ((w[:n/2] >> 11) + 1) * 2**-53 in (0, 1] and
v = (w[n/2:] >> 11) * 2**-53 in [0, 1), Box-Muller gives sqrt(-2 ln u) * cos(2 pi v), then as many with sin.
The arithmetic is float64 and rounded once to float32, so the result depends neither on numpy's own
distributions, which change between versions, nor (but for a rare last bit) on the platform's libm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_UNIT = 2.0**-53
_NO_WORDS = np.zeros(4, np.uint64)


class NoiseSource:
    """Draws the noise of whole ticks into one buffer. Not locked: one per session."""

    def __init__(self, size: int, steps: int) -> None:
        """For latents of `size` values and schedules of `steps` steps."""
        self._size, self._steps = size, steps
        pairs = self._pairs = (size + 1) // 2
        self._generator = np.random.Philox(key=0)
        self._key = np.zeros(2, np.uint64)
        self._counter = np.zeros(4, np.uint64)
        self._state = {
            "bit_generator": "Philox",
            "state": {"counter": self._counter, "key": self._key},
            "buffer": _NO_WORDS,
            "buffer_pos": 4,  # nothing buffered: the next word starts a fresh block
            "has_uint32": 0,
            "uinteger": 0,
        }
        self._words = np.empty((steps, 2 * pairs), np.uint64)
        self._radius = np.empty((steps, pairs), np.float64)
        self._angle = np.empty((steps, pairs), np.float64)
        self._normal = np.empty((steps, 2 * pairs), np.float64)
        self._values = np.empty((steps, size), np.float32)
        self._drawn: tuple[int, int] | None = None

    def draw(self, seed: int, tick: int) -> np.ndarray:
        """`float32[steps, size]`, row k - 1 for step k of this tick; overwritten by the next draw.

        `seed` and `tick` lie in 0..2**64 - 1. Drawing the same tick again costs nothing, so a session can
        draw the next tick's noise in its idle time.
        """
        if self._drawn == (seed, tick):
            return self._values
        self._drawn = None
        for step, words in enumerate(self._words, 1):
            self._key[0], self._counter[2], self._counter[3] = seed, step, tick
            self._generator.state = self._state  # type: ignore[assignment]
            words[:] = self._generator.random_raw(2 * self._pairs)
        self._words >>= np.uint64(11)
        pairs, radius, angle, normal = self._pairs, self._radius, self._angle, self._normal
        np.add(self._words[:, :pairs], 1.0, out=radius)  # at most 2**53, so exact in float64
        radius *= _UNIT
        np.log(radius, out=radius)
        radius *= -2.0
        np.sqrt(radius, out=radius)
        np.multiply(self._words[:, pairs:], 2.0 * math.pi * _UNIT, out=angle)
        np.multiply(radius, np.cos(angle), out=normal[:, :pairs])
        np.multiply(radius, np.sin(angle), out=normal[:, pairs:])
        self._values[:] = normal[:, : self._size]
        self._drawn = (seed, tick)
        return self._values


class ScheduleNoise:
    """The noise of a tick's steps, each times its level. Not locked: one per session or worker."""

    def __init__(self, shape: tuple[int, ...], levels: Sequence[float]) -> None:
        """For latents of this shape."""
        self._source = NoiseSource(math.prod(shape), len(levels))
        self._levels = np.array(levels, np.float32).reshape(-1, *(1 for _ in shape))
        self._noise = np.zeros((len(levels), *shape), np.float32)
        self.of_step = list(self._noise)
        """`float32[*shape]` per step: t_k * noise_k, in place."""
        self._drawn: tuple[int, int] | None = None

    def draw(self, seed: int, tick: int) -> None:
        """Fill `of_step` for this tick; drawing the same one again costs nothing."""
        if self._drawn != (seed, tick):
            np.multiply(self._source.draw(seed, tick).reshape(self._noise.shape), self._levels, out=self._noise)
            self._drawn = (seed, tick)


def noise(shape: tuple[int, ...], seed: int, tick: int, step: int) -> np.ndarray:
    """`float32[shape]`, standard normal: what a session draws for step `step` (from 1) of a tick."""
    drawn: np.ndarray = NoiseSource(math.prod(shape), step).draw(seed, tick)[step - 1]
    return drawn.reshape(shape)
