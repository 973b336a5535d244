"""The action probe: truth taken from recordings, and a probe that reads held-out pairs of a tiny world."""

import numpy as np
import pytest

pytest.importorskip("torch")

from exporters.evaluation.response.action_probe import (
    ActionProbe,
    ProbeConfig,
    buttons,
    flash_template,
    load_or_train,
    real_pairs,
    shot_visible,
)
from exporters.recording.dataset import Dataset, DatasetWriter
from exporters.recording.episode import DatasetError, Episode

NAMES = ["noop", "left", "right", "fire", "left+fire", "right+fire"]
FLASH = np.array([255, 230, 180], dtype=np.uint8)


def panorama():
    """A wall of random vertical stripes all around, 360 columns."""
    rng = np.random.default_rng(42)
    return np.repeat(rng.integers(0, 200, (60, 3), dtype=np.uint8), 6, axis=0)


def turning_world(seed, steps=300):
    """Turns 6 degrees a step in front of a striped wall; two steps after "fire" a flash shows for three pictures."""
    rng = np.random.default_rng(seed)
    actions = np.repeat(rng.integers(0, 6, steps // 5 + 1), 5)[:steps]
    turn = np.array([0, 1, -1, 0, 1, -1])[actions]
    angle = np.concatenate([[0], np.cumsum(turn * 6)]) % 360
    fires = (actions >= 3) & (np.arange(steps) % 5 == 0)
    wall = panorama()
    columns = (np.arange(64)[None] - angle[:, None]) % 360
    frames = np.repeat(wall[columns][:, None], 64, axis=1)
    frames = np.clip(frames + rng.integers(0, 8, frames.shape), 0, 255).astype(np.uint8)
    flash = (np.flatnonzero(fires)[:, None] + np.arange(3, 6)).ravel()
    flash = flash[flash <= steps]
    frames[flash, 30:48, 26:38] = FLASH
    ready = np.ones(steps + 1)
    ready[1:][fires] = 0
    state = np.stack([angle, ready], axis=1).astype(np.float32)
    cut = np.zeros(steps + 1, dtype=np.bool_)
    return Episode(frames, actions.astype(np.int64), cut, np.zeros(steps, np.float32), state), flash


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("turning")
    writer = DatasetWriter.create(
        folder,
        name="turning",
        frame={"height": 64, "width": 64, "channels": 3, "fps": 10.0},
        action_space={"type": "Discrete", "n": 6, "names": NAMES},
        licence="CC0",
        source="test",
        state=("angle_deg", "attack_ready"),
    )
    for seed in range(6):
        writer.add("train", turning_world(seed)[0], seed=seed)
    writer.add("validation", turning_world(100)[0], seed=100)
    return writer.finish()


def test_buttons_follow_from_the_names(dataset):
    assert buttons(dataset.spec) == [(0, False), (1, False), (-1, False), (0, True), (1, True), (-1, True)]


def test_the_flash_is_found_where_it_is(dataset):
    template = flash_template(dataset.episodes("train"), dataset.spec)
    np.testing.assert_allclose(template, np.broadcast_to(FLASH, template.shape), atol=1)
    episode, flash = turning_world(100)
    assert np.flatnonzero(shot_visible(episode.frames, template)).tolist() == flash.tolist()


def test_pairs_carry_the_simulators_truth(dataset):
    pairs = real_pairs(dataset, "validation", 100, seed=1)
    assert len(pairs.current) == 100
    np.testing.assert_allclose(pairs.truth.turn_deg, pairs.truth.turn * 6.0, atol=1e-4)
    assert 0 < pairs.truth.shot.sum() < 70


def test_a_trained_probe_reads_held_out_pairs_and_survives_the_disk(dataset, tmp_path):
    path = tmp_path / "runs" / "probe.npz"
    probe = load_or_train(dataset, path, ProbeConfig(pairs=1200, epochs=6, batch=32))
    pairs = real_pairs(dataset, "validation", 300)
    report = probe.evaluate(pairs)
    assert report.turn_accuracy > 0.9
    assert report.shot_accuracy > 0.95 and report.shot_recall > 0.9
    swapped = probe.read(pairs.current, pairs.previous)  # time backwards: a left turn looks like a right turn
    turning = pairs.truth.turn != 0
    assert (swapped.turn[turning] == -pairs.truth.turn[turning]).mean() > 0.8

    kept = load_or_train(dataset, path, ProbeConfig(pairs=1, epochs=1)).read(pairs.previous, pairs.current)
    np.testing.assert_array_equal(kept.turn_deg, probe.read(pairs.previous, pairs.current).turn_deg)


def test_bad_frames_and_files_are_refused(dataset, tmp_path):
    from exporters.evaluation.response.action_probe import _network

    probe = ActionProbe(_network())
    good = np.zeros((2, 64, 64, 3), dtype=np.uint8)
    assert probe.read(good[:0], good[:0]).turn.shape == (0,)
    with pytest.raises(ValueError, match="current must be uint8"):
        probe.read(good, good.astype(np.float32))
    with pytest.raises(ValueError, match="previous must be uint8"):
        probe.read(good[:, :32], good)
    with pytest.raises(ValueError, match="2 previous frames for 1"):
        probe.read(good, good[:1])
    other = tmp_path / "other.npz"
    np.savez(other, weight=np.zeros(3))
    with pytest.raises(ValueError, match="not a probe of this version"):
        ActionProbe.load(other)


def test_a_dataset_without_shots_or_columns_is_named(dataset, tmp_path):
    with pytest.raises(DatasetError, match="holds no shot"):
        flash_template([], dataset.spec)
    writer = DatasetWriter.create(
        tmp_path,
        name="plain",
        frame=dataset.spec.frame,
        action_space=dataset.spec.action_space,
        licence="CC0",
        source="t",
    )
    episode = turning_world(0, 20)[0]
    writer.add("train", Episode(episode.frames, episode.actions, episode.cut, episode.reward), seed=0)
    with pytest.raises(DatasetError, match="no state column 'angle_deg'"):
        real_pairs(Dataset(tmp_path), "train", 10)
