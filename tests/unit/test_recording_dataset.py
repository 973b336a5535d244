"""The episode format: what is written comes back, everything malformed is refused with the file's name."""

import dataclasses
import json
import pickle

import numpy as np
import pytest

from exporters.recording.contact_sheet import write_contact_sheet
from exporters.recording.dataset import Dataset, DatasetWriter
from exporters.recording.episode import DatasetError, Episode, read_episode, validate_episode, write_episode

FRAME = {"height": 8, "width": 6, "channels": 3, "fps": 17.5}
DISCRETE = {"type": "Discrete", "n": 3, "names": ["noop", "left", "right"]}
BINARY = {"type": "MultiBinary", "n": 4, "names": ["a", "b", "c", "d"]}
BOX = {"type": "Box", "low": [-1.0, 0.0], "high": [1.0, 2.0], "names": ["x", "y"], "units": ["m", "m"]}


def make_episode(steps=5, seed=0, action_space=DISCRETE, cuts=()):
    rng = np.random.default_rng(seed)
    actions = {
        "Discrete": lambda: rng.integers(0, 3, steps),
        "MultiBinary": lambda: rng.integers(0, 2, (steps, 4)).astype(np.uint8),
        "Box": lambda: rng.uniform([-1, 0], [1, 2], (steps, 2)).astype(np.float32),
    }[action_space["type"]]()
    cut = np.zeros(steps + 1, dtype=np.bool_)
    cut[list(cuts)] = True
    return Episode(
        frames=rng.integers(0, 256, (steps + 1, 8, 6, 3), dtype=np.uint8),
        actions=actions,
        cut=cut,
        reward=rng.normal(size=steps).astype(np.float32),
        state=rng.normal(size=(steps + 1, 2)).astype(np.float32),
    )


def make_writer(folder, action_space=DISCRETE):
    return DatasetWriter.create(
        folder,
        name="toy",
        frame=FRAME,
        action_space=action_space,
        licence="CC0",
        source="test",
        state=("angle_deg", "x"),
    )


@pytest.mark.parametrize("action_space", [DISCRETE, BINARY, BOX], ids=lambda space: space["type"])
@pytest.mark.parametrize("compress", [False, True])
def test_what_is_written_comes_back(tmp_path, action_space, compress):
    writer = make_writer(tmp_path, action_space)
    episodes = [make_episode(5, 1, action_space), make_episode(3, 2, action_space, cuts=[2])]
    for seed, episode in enumerate(episodes):
        writer.add("train", episode, seed=seed, compress=compress)
    writer.add("test", make_episode(2, 3, action_space), seed=100)
    dataset = writer.finish()
    dataset.check()
    assert dataset.spec.complete
    assert dataset.spec.splits["train"].frames == 6 + 4
    assert dataset.spec.splits["train"].seeds == (0, 1)
    for written, read in zip(episodes, dataset.episodes("train"), strict=True):
        for column in dataclasses.fields(Episode):
            before, after = getattr(written, column.name), getattr(read, column.name)
            np.testing.assert_array_equal(before, after)
            assert before.dtype == after.dtype


def test_readers_may_start_before_the_recording_ends(tmp_path):
    writer = make_writer(tmp_path)
    writer.add("train", make_episode(seed=1), seed=1)
    early = Dataset(tmp_path)
    assert not early.spec.complete
    assert len(list(early.episodes("train"))) == 1
    writer.add("train", make_episode(seed=2), seed=2)
    assert len(Dataset(tmp_path).paths("train")) == 2


def test_a_dataset_is_never_overwritten(tmp_path):
    make_writer(tmp_path)
    with pytest.raises(DatasetError, match="already holds a dataset"):
        make_writer(tmp_path)


def test_splits_never_share_a_seed(tmp_path):
    writer = make_writer(tmp_path)
    writer.add("train", make_episode(), seed=10)
    writer.add("train", make_episode(), seed=12)
    with pytest.raises(DatasetError, match="share seeds"):
        writer.add("test", make_episode(), seed=11)
    assert set(Dataset(tmp_path).spec.splits) == {"train"}


def test_windows_do_not_cross_a_cut():
    episode = make_episode(steps=9, cuts=[4])  # pictures 0..3 | 4..9
    assert episode.window_starts(3).tolist() == [0, 1, 4, 5, 6, 7]
    assert episode.window_starts(1).tolist() == list(range(10))
    assert episode.window_starts(6).tolist() == [4]
    assert episode.window_starts(7).tolist() == []
    assert episode.window_starts(11).tolist() == []
    for start in episode.window_starts(3):
        assert not episode.cut[start + 1 : start + 3].any()
    with pytest.raises(ValueError, match="length"):
        episode.window_starts(0)


MALFORMED = {
    "frames": (lambda e: dataclasses.replace(e, frames=e.frames.astype(np.float32)), "frames is float32"),
    "frame size": (lambda e: dataclasses.replace(e, frames=e.frames[:, :4]), r"frames is uint8\[6, 4, 6, 3\]"),
    "one picture short": (lambda e: dataclasses.replace(e, frames=e.frames[:-1]), "expected uint8"),
    "no steps": (lambda e: dataclasses.replace(e, actions=e.actions[:0]), "at least one step"),
    "action dtype": (lambda e: dataclasses.replace(e, actions=e.actions.astype(np.int32)), "actions is int32"),
    "action too big": (lambda e: dataclasses.replace(e, actions=e.actions * 0 + 3), "leave the Discrete space"),
    "action negative": (lambda e: dataclasses.replace(e, actions=e.actions * 0 - 1), "leave the Discrete space"),
    "cut length": (lambda e: dataclasses.replace(e, cut=e.cut[1:]), "cut is bool"),
    "cut first": (lambda e: dataclasses.replace(e, cut=~e.cut), r"cut\[0\]"),
    "reward NaN": (lambda e: dataclasses.replace(e, reward=e.reward * np.float32(np.nan)), "reward holds NaN"),
    "state NaN": (lambda e: dataclasses.replace(e, state=e.state * np.float32(np.inf)), "state holds NaN"),
    "state missing": (lambda e: dataclasses.replace(e, state=None), "no state array"),
    "state width": (lambda e: dataclasses.replace(e, state=e.state[:, :1]), "state is float32"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_episodes_are_refused(tmp_path, case):
    spoil, message = MALFORMED[case]
    writer = make_writer(tmp_path)
    with pytest.raises(DatasetError, match=message) as caught:
        writer.add("train", spoil(make_episode()), seed=0)
    assert "000000.npz" in str(caught.value)
    assert not list(tmp_path.rglob("*.npz"))


def test_box_actions_outside_their_bounds_are_refused():
    episode = make_episode(action_space=BOX)
    validate_episode(episode, FRAME, BOX, ("angle_deg", "x"))
    for value in (np.float32(np.nan), np.float32(1.5)):
        actions = episode.actions.copy()
        actions[2, 0] = value
        with pytest.raises(DatasetError, match="leave the Box space"):
            validate_episode(dataclasses.replace(episode, actions=actions), FRAME, BOX, ("angle_deg", "x"))


def test_damaged_files_are_refused_by_name(tmp_path):
    path = tmp_path / "000000.npz"
    with pytest.raises(DatasetError, match="no such recording"):
        read_episode(path, FRAME, DISCRETE)
    write_episode(path, make_episode())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match=r"000000\.npz: not a readable recording"):
        read_episode(path, FRAME, DISCRETE, ("angle_deg", "x"))
    path.write_bytes(b"not a zip")
    with pytest.raises(DatasetError, match=r"000000\.npz: not a readable recording"):
        read_episode(path, FRAME, DISCRETE, ("angle_deg", "x"))
    np.savez(path, frames=np.zeros(3))
    with pytest.raises(DatasetError, match="arrays missing: actions, cut, reward"):
        read_episode(path, FRAME, DISCRETE, ("angle_deg", "x"))


def test_nothing_is_ever_unpickled(tmp_path):
    path = tmp_path / "000000.npz"
    trap = np.array([pickle.dumps], dtype=object)
    np.savez(path, frames=trap, actions=trap, cut=trap, reward=trap)
    with pytest.raises(DatasetError, match="not a readable recording"):
        read_episode(path, FRAME, DISCRETE)


BAD_DESCRIPTIONS = {
    "other format": ({"format": "other"}, "not a dsa-episodes"),
    "future version": ({"format_version": 2}, "format version 2 is unknown"),
    "no name": ({"name": None}, "field 'name' is missing"),
    "no fps": ({"frame": {"height": 8, "width": 6, "channels": 3}}, "frame.fps is missing"),
    "odd action space": ({"action_space": {"type": "Tuple"}}, "unknown action space type 'Tuple'"),
    "splits no object": ({"splits": [1]}, "malformed"),
    "reversed seeds": ({"splits": {"train": {"episodes": 0, "frames": 0, "seeds": [2, 1]}}}, "malformed"),
}


@pytest.mark.parametrize("case", BAD_DESCRIPTIONS)
def test_bad_descriptions_are_refused(tmp_path, case):
    change, message = BAD_DESCRIPTIONS[case]
    make_writer(tmp_path).finish()
    path = tmp_path / "dataset.json"
    data = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))
    with pytest.raises(DatasetError, match=message):
        Dataset(tmp_path)


def test_missing_and_unreadable_descriptions(tmp_path):
    with pytest.raises(DatasetError, match=r"no dataset\.json"):
        Dataset(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DatasetError, match="not valid JSON"):
        Dataset(tmp_path)


def test_unknown_splits_and_indices_are_refused(tmp_path):
    writer = make_writer(tmp_path)
    writer.add("train", make_episode(), seed=0)
    dataset = writer.finish()
    with pytest.raises(DatasetError, match="no split 'test'; it has: train"):
        dataset.paths("test")
    with pytest.raises(DatasetError, match="not 1"):
        dataset.read("train", 1)
    with pytest.raises(DatasetError, match="no name for a split"):
        writer.add("../outside", make_episode(), seed=5)


def test_check_finds_a_wrong_count(tmp_path):
    writer = make_writer(tmp_path)
    writer.add("train", make_episode(), seed=0)
    path = tmp_path / "dataset.json"
    writer.finish()
    path.write_text(path.read_text().replace('"frames": 6', '"frames": 7'))
    with pytest.raises(DatasetError, match="holds 6 frames, its description says 7"):
        Dataset(tmp_path).check()


def test_contact_sheet_shows_every_row(tmp_path):
    from PIL import Image

    writer = make_writer(tmp_path / "data", BOX)
    writer.add("train", make_episode(40, action_space=BOX, cuts=[20]), seed=0)
    out = tmp_path / "sheets" / "train.png"
    write_contact_sheet(writer.finish(), out, rows=2, columns=3, stride=2, scale=2)
    with Image.open(out) as sheet:
        assert sheet.size == (3 * (12 + 2), 2 * (16 + 12 + 2))
        pixels = np.asarray(sheet)
    assert pixels[:16, :12].std() > 10  # a picture, not an empty tile
    assert not (pixels[:16, :12] == pixels[30:46, :12]).all()
