"""The same world on a GPU and on the CPU: what a session draws, and what it carries from the one to the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dsa_runtime import load_world
from dsa_runtime.device_array import DeviceArray
from tests.chunk_world import PROMPTS, write_chunk_world

pytestmark = pytest.mark.gpu

LATENTS = 1e-3
"""Largest difference of a latent after one tick, in float32 without TF32."""
GREY_LEVELS = 1


@pytest.fixture(params=["bundled", "chunks"])
def package(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return None if request.param == "bundled" else write_chunk_world(tmp_path / "chunks")


@pytest.mark.parametrize("form", ["plain", "auto"])
def test_a_tick_is_the_same_up_to_rounding(package: Path | None, form: str) -> None:
    """Each from the same past: the CPU's session is put where the GPU's is before every tick."""
    with load_world(package) as near, load_world(package, device="cuda", form=form) as far:
        assert isinstance(far._cache.pools[0], DeviceArray) and far.device == "cuda"
        with near.session(7) as ours, far.session(7, history=4) as session:
            for number in range(8):
                ours.restore(session.snapshot())
                expected, tick = (one.step(number % 3, 1e4, steps=2) for one in (ours, session))
                assert np.abs(ours._state.latent - session._state.latent).max() < LATENTS
                assert np.abs(expected.frames.astype(int) - tick.frames).max() <= GREY_LEVELS
                assert tick.confidence == pytest.approx(expected.confidence, abs=1e-3)


def test_forks_snapshots_and_prompts_on_the_gpu(package: Path | None) -> None:
    with load_world(package, device="cuda") as far, far.session(7, history=4) as session:
        first = [session.step(1, 1e4, steps=2).frames for _ in range(3)]
        kept = session.snapshot()
        branches = session.fork(far._cache.capacity)  # more slots than there are: the pools have to grow
        session.rewind(2)
        again = [session.step(1, 1e4, steps=2).frames for _ in range(2)]
        np.testing.assert_array_equal(again, first[1:])
        if far.spec.text.width:
            session.set_prompt(PROMPTS[1])
        session.restore(kept)
        ahead, branch = (one.step(2, 1e4, steps=2).frames for one in (session, branches[-1]))
        np.testing.assert_array_equal(ahead, branch)
        for one in branches:
            one.close()
