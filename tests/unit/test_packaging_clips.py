"""Clips for packages: continuous, with the action that led to each frame, from the split asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from exporters.packaging.clips import longest_everywhere, pick_clips
from exporters.recording.dataset import Dataset, DatasetWriter
from exporters.recording.episode import DatasetError, Episode

FRAME = {"height": 4, "width": 4, "channels": 3, "fps": 10.0}
SPACE = {"type": "Discrete", "n": 200, "names": [str(i) for i in range(200)]}


def dataset(folder: Path, steps: int = 40, cuts: tuple[int, ...] = (20,)) -> Dataset:
    """Frame i of episode e is filled with 100 e + i, and the action that leads to it is the same number."""
    writer = DatasetWriter.create(folder, name="t", frame=FRAME, action_space=SPACE, licence="CC0", source="test")
    for index, split in enumerate(("train", "test")):
        values = np.arange(steps + 1) + 100 * index
        cut = np.isin(np.arange(steps + 1), cuts)
        frames = np.broadcast_to(values[:, None, None, None], (steps + 1, 4, 4, 3)).astype(np.uint8)
        episode = Episode(frames, values[1:].astype(np.int64), cut, np.zeros(steps, np.float32))
        writer.add(split, episode, seed=index)
    return writer.finish()


def test_actions_lead_to_their_frames_and_no_clip_crosses_a_cut(tmp_path: Path) -> None:
    clips = pick_clips(dataset(tmp_path), "test", 50, 6, seed=1)
    assert clips.frames.shape == (50, 6, 4, 4, 3) and clips.actions.shape == (50, 6)
    values = clips.frames[..., 0, 0, 0].astype(int)
    np.testing.assert_array_equal(values, clips.actions)
    np.testing.assert_array_equal(np.diff(values, axis=1), 1)
    assert values.min() > 100, "from the test split, and the first frame has no action that led to it"
    # The picture at a cut follows no action; a clip may not begin with it either.
    assert not (values == 120).any()
    assert (values < 120).any() and (values > 120).any()


def test_the_seed_decides(tmp_path: Path) -> None:
    source = dataset(tmp_path)
    one, again, other = (pick_clips(source, "train", 8, 4, seed=seed).actions for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_head(tmp_path: Path) -> None:
    clips = pick_clips(dataset(tmp_path), "train", 3, 8)
    assert clips.head(5).frames.shape[:2] == clips.head(5).actions.shape == (3, 5)


def test_too_long_a_clip_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="31 consecutive frames"):
        pick_clips(dataset(tmp_path), "train", 1, 30)


def test_every_recording_has_room_for_the_longest_clip(tmp_path: Path) -> None:
    """41 frames, cut at 20 and 27: the longest stretch is the first one."""
    found = dataset(tmp_path, cuts=(20, 27))
    room = longest_everywhere(found, "test")
    assert room == 20
    pick_clips(found, "test", 5, room - 1)
    with pytest.raises(DatasetError):
        pick_clips(found, "test", 5, room)
