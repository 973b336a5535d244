"""Session on the tiny world: determinism, the cache's part in it, step allocation, what a tick reports."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest

from dsa_runtime import Controller, Session, World
from dsa_runtime.noise import noise
from dsa_runtime.recording import digest
from tests.stages import settle
from tests.tiny_world import LEVELS, WINDOW

ACTIONS = [0, 1, 3, 2, 2, 0, 1, 1]
NO_LIMIT = math.inf


def play(session: Session, actions: list[int], **options: Any) -> list[np.ndarray]:
    return [session.step(action, NO_LIMIT, **options).pixels for action in actions]


def fresh(world: World, seed: int, actions: list[int], **options: Any) -> list[np.ndarray]:
    with world.session(seed) as session:
        return play(session, actions, **options)


def test_same_seed_and_actions_give_the_same_frames(tiny_world: World) -> None:
    np.testing.assert_array_equal(fresh(tiny_world, 5, ACTIONS), fresh(tiny_world, 5, ACTIONS))


def test_frames_do_not_depend_on_the_number_of_threads(tiny_world: World) -> None:
    with tiny_world.session(5, threads=2) as session:
        np.testing.assert_array_equal(play(session, ACTIONS), fresh(tiny_world, 5, ACTIONS))


@pytest.mark.parametrize("seeds", [(0, 2), (0, 1)], ids=["other noise, same context", "other context"])
def test_other_seeds_give_other_frames(tiny_world: World, seeds: tuple[int, int]) -> None:
    first, second = (fresh(tiny_world, seed, [0])[0] for seed in seeds)
    assert (first != second).any()


def test_actions_and_step_counts_reach_the_frame(tiny_world: World) -> None:
    assert (fresh(tiny_world, 0, [0])[0] != fresh(tiny_world, 0, [1])[0]).any()
    by_steps = {fresh(tiny_world, 0, [0], steps=k)[0].tobytes() for k in range(1, len(LEVELS) + 1)}
    assert len(by_steps) == len(LEVELS)


def test_reset_reproduces_and_returns_the_context_picture(tiny_world: World) -> None:
    with tiny_world.session(1) as session:
        first = play(session, ACTIONS)
        picture = session.reset(1)
        again = play(session, ACTIONS)
        other_picture = session.reset(0)
    np.testing.assert_array_equal(first, again)
    assert picture.shape == (8, 8, 3)
    assert picture.dtype == np.uint8
    assert (picture != other_picture).any()


def test_reset_gives_a_copy_of_the_picture(tiny_world: World) -> None:
    with tiny_world.session(1) as session:
        session.reset(1)[:] = 0
        assert session.reset(1).any()


def test_the_first_frame_follows_the_documented_arithmetic(tiny_world: World) -> None:
    """x_1 = noise; x_k = (1 - t_k) * clean + t_k * noise_k, all keyed by (seed, tick, step)."""
    with tiny_world.session(3) as session:
        shape, table = (1, *tiny_world.spec.latent.shape), np.array([session._window.slots], np.int32)
        frame = session.step(2, NO_LIMIT, steps=3).pixels
        graphs, pools = session._runtime.engine.graphs, session._runtime.cache.pools
        inputs = {
            "action": np.eye(4, dtype=np.float32)[[2]],
            "slot_age": np.array([[3, 2, 1]], np.int32), "slot_table": table,
            **{f"{('key', 'value')[i % 2]}_pool_{i // 2}": pool for i, pool in enumerate(pools)},
        }  # fmt: skip
        clean = np.zeros(shape, np.float32)
        for step, level in enumerate(LEVELS[:3], 1):
            latent = np.float32(1 - level) * clean + np.float32(level) * noise(shape, 3, 0, step)
            feeds = {**inputs, "latent": latent, "level": np.array([level], np.float32)}
            clean = graphs["denoise"].run(["clean"], feeds)[0]
        expected = graphs["decode"].run(["frame"], {"latent": clean})[0][0]
    np.testing.assert_array_equal(frame, expected)


def test_a_commit_is_seen_by_the_next_tick(tiny_world: World) -> None:
    """Two pasts that differ in one frame only, then the same noise and action: the frames must differ."""
    with tiny_world.session(0) as session:
        session.step(0, NO_LIMIT, steps=4)
        after_noop = session.step(0, NO_LIMIT, steps=4).pixels
        session.reset(0)
        session.step(3, NO_LIMIT, steps=4)
        after_fire = session.step(0, NO_LIMIT, steps=4).pixels
    assert (after_noop != after_fire).any()


def test_the_window_slides_over_the_context_and_then_over_the_play(tiny_world: World) -> None:
    with tiny_world.session(0) as session:
        seen = []
        for action in ACTIONS:
            session.step(action)
            settle(session)
            seen.append(session._window.slots)
    for before, after in itertools.pairwise(seen):
        assert len(after) == WINDOW
        assert after[:-1] == before[1:]
        assert after[-1] not in before


def test_committed_keys_and_values_are_in_the_slot(tiny_world: World) -> None:
    """The commit is bound straight to pool memory: its result is in the new slot and nowhere else."""
    with tiny_world.session(0) as session:
        session.step(0)
        settle(session)
        before, table = (
            [pool.copy() for pool in session._runtime.cache.pools],
            np.array([session._window.slots], np.int32),
        )
        session.step(1)
        feeds = {
            "latent": session._state.latent[np.newaxis], "level": np.array([0.0], np.float32),
            "action": np.eye(4, dtype=np.float32)[[1]], "slot_table": table,
            "slot_age": np.array([[3, 2, 1]], np.int32),
            **{f"{('key', 'value')[i % 2]}_pool_{i // 2}": pool for i, pool in enumerate(before)},
        }  # fmt: skip
        names = ["key_0", "value_0", "key_1", "value_1"]
        expected = session._runtime.engine.graphs["commit"].run(names, feeds)
        settle(session)
        newest = session._window.slots[-1]
        for pool, old, new in zip(session._runtime.cache.pools, before, expected, strict=True):
            np.testing.assert_array_equal(pool[newest], new[0])
            others = np.arange(len(pool)) != newest
            np.testing.assert_array_equal(pool[others], old[others])


@pytest.mark.parametrize(
    ("controller", "budget_ms", "steps", "stopped_by"),
    [
        (Controller(threshold=0.0), NO_LIMIT, 1, "confidence"),
        (Controller(threshold=0.0, min_steps=3), NO_LIMIT, 3, "confidence"),
        (Controller(threshold=1.0), NO_LIMIT, 4, "ceiling"),
        (Controller(threshold=1.0, max_steps=2), NO_LIMIT, 2, "ceiling"),
        (Controller(policy="fixed", max_steps=3), NO_LIMIT, 3, "ceiling"),
        (Controller(threshold=1.0), 1e-3, 1, "budget"),
        (Controller(threshold=1.0, guard_ms=1e9), 1e6, 1, "budget"),
    ],
)
def test_what_ends_a_tick(
    tiny_world: World, controller: Controller, budget_ms: float, steps: int, stopped_by: str
) -> None:
    with tiny_world.session(0, controller=controller) as session:
        tick = session.step(0, budget_ms)
    assert (tick.steps, tick.stopped_by) == (steps, stopped_by)


def test_asked_for_steps_are_taken_whatever_the_budget(tiny_world: World) -> None:
    with tiny_world.session(0, threshold=0.0) as session:
        tick = session.step(0, 1e-3, steps=4)
    assert (tick.steps, tick.stopped_by, tick.confidence, tick.status) == (4, "request", 1.0, "late")


def test_the_budget_caps_the_steps_by_measured_cost(tiny_world: World) -> None:
    with tiny_world.session(0, threshold=1.0) as session:
        for step in range(1, 5):
            for _ in range(300):
                session.latency.record("denoise", 1000.0, step)  # as if a step took a second
        session.step(0)  # costs are looked up between ticks
        assert session.step(0, 900.0).stopped_by == "budget"
        assert session.step(0, 1e5).steps == 4


def test_threshold_decides_by_calibrated_confidence(tiny_world: World) -> None:
    """The higher the threshold the more steps, and every frame that stopped by confidence has reached it."""
    mean_steps = []
    for threshold in (0.2, 0.4, 0.6, 0.9):
        with tiny_world.session(0, threshold=threshold) as session:
            ticks = [session.step(action, NO_LIMIT) for action in ACTIONS * 4]
        for tick in ticks:
            assert tick.threshold == threshold
            assert tick.confidence >= threshold or tick.stopped_by == "ceiling"
        mean_steps.append(np.mean([tick.steps for tick in ticks]))
    assert mean_steps == sorted(mean_steps)
    assert mean_steps[0] < mean_steps[-1]


def test_the_default_threshold_is_the_worlds(tiny_world: World) -> None:
    with tiny_world.session(0) as session:
        assert session.step(0).threshold == tiny_world.spec.calibration.default_threshold


def test_paper_policy_refines_the_first_frame_and_compares_with_the_last(tiny_world: World) -> None:
    with tiny_world.session(0, controller=Controller(policy="paper")) as session:
        ticks = [session.step(action, NO_LIMIT) for action in ACTIONS]
    assert ticks[0].steps == 4
    assert {tick.steps for tick in ticks} <= {1, 4}


def test_a_tick_accounts_for_its_time(tiny_world: World) -> None:
    with tiny_world.session(0) as session:
        for number in range(20):
            tick = session.step(0, 500.0)
            latency = tick.latency_ms
            assert tick.tick == number
            assert len(latency["denoise"]) == tick.steps
            assert min(latency["wait"], latency["decode"], latency["sdk"], *latency["denoise"]) >= 0
            parts = latency["wait"] + sum(latency["denoise"]) + latency["decode"] + latency["sdk"]
            assert parts == pytest.approx(latency["total"])
            assert tick.slack_ms == pytest.approx(500.0 - latency["total"])
            assert tick.status == ("late" if latency["total"] > 500.0 else "ok")
        assert session.tick == 20
        assert session.step(0).budget_ms == tiny_world.spec.frame.period_ms


def test_pixels_belong_to_the_caller(tiny_world: World) -> None:
    with tiny_world.session(0) as session:
        kept = session.step(0, NO_LIMIT).pixels
        copy = kept.copy()
        later = play(session, ACTIONS)
        np.testing.assert_array_equal(kept, copy)
        assert kept.flags.writeable
        assert not any(np.shares_memory(kept, pixels) for pixels in later)


def test_a_tick_is_frozen(tiny_world: World) -> None:
    with tiny_world.session(0) as session:
        tick = session.step(0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        tick.steps = 3  # type: ignore[misc]


@pytest.mark.parametrize("batched", [False, True], ids=["alone", "batched"])
def test_a_tick_says_the_confidence_after_each_step(tiny_world: World, batched: bool) -> None:
    most = tiny_world.spec.schedule.steps
    with tiny_world.session(9, threshold=0.55, batched=batched) as session:
        for action in ACTIONS:
            branches = session.fork(most)
            # What it would have been, had it stopped there.
            stopped = [branch.step(action, math.inf, steps=k).confidence for k, branch in enumerate(branches, 1)]
            tick = session.step(action, math.inf)
            assert tick.confidences == pytest.approx(stopped[: tick.steps], abs=1e-5)
            assert len(tick.confidences) == tick.steps and tick.confidences[-1] == tick.confidence
            assert max(tick.confidences[:-1], default=0) < 0.55
            for branch in branches:
                branch.close()


def test_a_recording_reproduces_the_session(tiny_world: World) -> None:
    with tiny_world.session(9, threshold=0.55, record=True) as session:
        for action in ACTIONS:
            session.step(action)
        recording = session.recording
    assert recording is not None
    assert (recording.world, recording.seed, len(recording.decisions)) == ("tiny", 9, len(ACTIONS))
    with tiny_world.session(recording.seed) as session:
        for decision in recording.decisions:
            tick = session.step(decision.action, 1e-3, steps=decision.steps)
            assert digest(tick.pixels) == decision.digest


def test_latency_is_known_from_the_first_tick_on(tiny_world: World) -> None:
    with tiny_world.session(0) as session:
        summary = session.latency.summary()
        assert {"denoise", "decode"} <= set(summary)
        assert min(entry.p50_ms for entry in summary.values()) > 0


def test_the_session_never_grows(tiny_world: World) -> None:
    with tiny_world.session(0) as session:
        cache = session._runtime.cache
        pools, used = cache.pools, cache.used
        for number in range(500):
            session.step(number % 4)
        settle(session)
        assert cache.pools is pools
        assert cache.used == used


def test_closing_gives_the_slots_back(tiny_world: World) -> None:
    session = tiny_world.session(0)
    cache, before = session._runtime.cache, session._runtime.cache.used
    session.step(0)
    session.close()
    session.close()
    assert cache.used == before - WINDOW
