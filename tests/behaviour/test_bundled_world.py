"""The bundled world through the SDK: it is real, it answers its player, and it stays a picture."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from dsa_runtime import Session, World, load_world

NOOP, LEFT, RIGHT, FIRE = 0, 1, 2, 3
MARGIN = 14
"""Columns that a shift is looked for in; four turns move the view by less."""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with load_world() as loaded:
        yield loaded


@pytest.fixture
def session(world: World) -> Iterator[Session]:
    with world.session(seed=0) as opened:
        yield opened


def view_shift(before: np.ndarray, after: np.ndarray) -> int:
    """Pixels by which the walls moved to the right, by matching brightness above the gun."""
    first, second = (p[8:40].astype(float).mean(axis=2) for p in (before, after))
    middle = first[:, MARGIN:-MARGIN]
    width = middle.shape[1]
    errors = [np.abs(second[:, MARGIN + s : MARGIN + s + width] - middle).mean() for s in range(-MARGIN, MARGIN + 1)]
    return int(np.argmin(errors)) - MARGIN


def test_turning_moves_the_view_the_other_way_and_waiting_does_not(world: World, session: Session) -> None:
    correct = {NOOP: 0, LEFT: 0, RIGHT: 0}
    contexts = range(world.contexts)
    for seed in contexts:
        for action in correct:
            before = session.reset(seed)
            for _ in range(2):
                after = session.step(action, np.inf, steps=2).pixels
            shift = view_shift(before, after)
            correct[action] += {NOOP: abs(shift) <= 2, LEFT: shift > 0, RIGHT: shift < 0}[action]
    # A start context may face a wall so near that nothing can be matched, or still be turning.
    assert min(correct.values()) >= 0.75 * len(contexts), correct


def test_the_gun_flashes_after_the_trigger_and_not_without(world: World, session: Session) -> None:
    """The recordings show the flash three pictures after the trigger."""

    def brightest_muzzle(action: int, seed: int) -> float:
        session.reset(seed)
        for _ in range(4):  # let a shot that the context had begun fade
            session.step(NOOP, np.inf, steps=2)
        frames = [session.step(action, np.inf, steps=2).pixels for _ in range(5)]
        return max(float(f[32:46, 26:38].max(axis=2).mean()) for f in frames)

    seeds = range(world.contexts)
    brighter = [brightest_muzzle(FIRE, s) > brightest_muzzle(NOOP, s) + 10 for s in seeds]
    assert np.mean(brighter) >= 0.75


def test_it_stays_a_picture_for_300_ticks(session: Session) -> None:
    random = np.random.default_rng(1)
    pictures = []
    for _ in range(300):
        pictures.append(session.step(int(random.integers(6)), np.inf, steps=2).pixels)
    late = np.stack(pictures[-50:]).astype(float)
    assert 30 < late.mean() < 200
    assert late.std(axis=(1, 2, 3)).min() > 8  # not a flat colour
    assert np.abs(np.diff(late, axis=0)).mean() > 0.5  # not a still


def test_confidence_decides_and_the_threshold_moves_the_cost(world: World) -> None:
    def mean_steps(threshold: float) -> float:
        with world.session(seed=3, threshold=threshold) as session:
            ticks = [session.step((LEFT, FIRE, RIGHT, NOOP)[i // 8 % 4], np.inf) for i in range(80)]
        return float(np.mean([t.steps for t in ticks]))

    steps = [mean_steps(threshold) for threshold in (0.0, world.spec.calibration.default_threshold, 1.0)]
    assert steps[0] == 1.0
    assert steps[0] < steps[1] < steps[2]
    with world.session(seed=3) as session:
        ticks = [session.step((LEFT, FIRE, RIGHT, NOOP)[i // 8 % 4], np.inf) for i in range(80)]
    assert len({t.steps for t in ticks}) > 1
    stopped = [t for t in ticks if t.stopped_by == "confidence"]
    assert stopped and all(t.threshold is not None and t.confidence >= t.threshold for t in stopped)


def test_the_same_seed_actions_and_steps_give_the_same_frames(world: World) -> None:
    def play() -> list[np.ndarray]:
        with world.session(seed=11) as session:
            return [session.step(i % 6, np.inf, steps=1 + i % world.spec.schedule.steps).pixels for i in range(24)]

    for one, other in zip(play(), play(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_card_and_the_licence_come_with_it(world: World) -> None:
    assert "Freedoom" in world.spec.licence
    assert "card.md" in world.spec.files
    total = sum(entry.bytes for entry in world.spec.files.values())
    assert total <= 16 * 2**20
