"""The bundled world in its two forms, through the SDK: the same play up to rounding, the same machinery around it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dsa_runtime import load_world
from dsa_runtime.engine import Engine
from dsa_runtime.form import choose_form
from dsa_runtime.frame_cache import FrameCache
from dsa_runtime.package import open_package

with open_package() as bundled:
    CHOICE = choose_form(bundled.spec)
pytestmark = pytest.mark.skipif(CHOICE.form != "op", reason=f"the op form: {CHOICE.reason}")


def test_auto_takes_the_op_form() -> None:
    with load_world(threads=1) as world:
        assert world.form == "op"


def test_both_forms_draw_the_same_frames_up_to_rounding() -> None:
    op, plain = load_world(threads=1, form="op"), load_world(threads=1, form="plain")
    with op, plain, op.session(3) as ours, plain.session(3) as theirs:
        for tick in range(24):
            one = ours.step(tick % 6, math.inf, steps=tick % 3 + 1)
            other = theirs.step(tick % 6, math.inf, steps=tick % 3 + 1)
            difference = np.abs(one.pixels.astype(int) - other.pixels)
            assert difference.max() <= 2 and (difference > 0).mean() < 0.01
            assert one.confidence == pytest.approx(other.confidence, abs=1e-3)


def test_a_snapshot_moves_between_forms() -> None:
    op, plain = load_world(threads=1, form="op"), load_world(threads=1, form="plain")
    with op, plain, op.session(1) as ours, plain.session(0) as theirs:
        for tick in range(5):
            ours.step(tick, math.inf, steps=1)
        theirs.restore(ours.snapshot())
        one, other = ours.step(2, math.inf, steps=3), theirs.step(2, math.inf, steps=3)
        assert np.abs(one.pixels.astype(int) - other.pixels).max() <= 2


def test_write_fills_slots_in_place_by_one_call() -> None:
    rng = np.random.default_rng(0)
    with open_package() as package:
        engine, shape = Engine(package, threads=1, form="op"), package.spec.cache.slot_shape
    fast, slow = FrameCache(engine.spec.cache, 12), FrameCache(engine.spec.cache, 12)
    frames = [rng.normal(size=(3, *shape)).astype(np.float32) for _ in fast.pools]
    pools = fast.pools
    for slots in ([4, 0, 11], [11, 2, 3]):
        engine.write(fast, slots, frames)
        slow.write(slots, frames)
    engine.write(fast, [], [frame[:0] for frame in frames])
    backwards = [np.asfortranarray(frame[::-1]).astype(np.float64) for frame in frames]  # any layout will do
    engine.write(fast, [3, 2, 11], backwards)
    assert fast.pools is pools
    for one, other in zip(fast.pools, slow.pools, strict=True):
        np.testing.assert_array_equal(one, other)
        assert (one != 0).any(axis=(1, 2, 3)).nonzero()[0].tolist() == [0, 2, 3, 4, 11]
