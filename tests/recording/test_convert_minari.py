"""Minari datasets: with pictures, and without, whose environment is played again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gymnasium")
pytest.importorskip("dacite")
pytest.importorskip("minari")
pytest.importorskip("h5py")

import gymnasium
import minari
from minari.data_collector import EpisodeBuffer

from exporters.recording.__main__ import main
from exporters.recording.dataset import Dataset
from tests.recording import slider

STEPS = 15


def make_dataset(folder: Path, monkeypatch: pytest.MonkeyPatch, *, sees: bool, seeds: bool = True) -> list[np.ndarray]:
    """A dataset "slider/test-v0" of three episodes; returns their actions."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder / "minari"))
    monkeypatch.chdir(folder)
    environment = gymnasium.make("tests.recording.slider:Slider-v0", sees=sees, render_mode="rgb_array")
    rng, buffers, taken = np.random.default_rng(0), [], []
    for seed in range(3):
        seen = [environment.reset(seed=seed)[0]]
        actions = [int(action) for action in rng.integers(-1, 2, STEPS)]
        paid = []
        for action in actions:
            observation, reward, *_ = environment.step(action)
            seen.append(observation)
            paid.append(reward)
        ends = [False] * STEPS
        buffers.append(
            EpisodeBuffer(
                id=seed, seed=seed if seeds else None, observations=np.stack(seen), actions=np.array(actions),
                rewards=paid, terminations=ends, truncations=[False] * (STEPS - 1) + [True], infos={},
            )
        )  # fmt: skip
        taken.append(np.array(actions))
    minari.create_dataset_from_buffers(
        "slider/test-v0", buffers, env=environment, algorithm_name="x", author="x", author_email="x", code_permalink="x"
    )
    return taken


@pytest.mark.parametrize("sees", [True, False], ids=["pictures", "played again"])
def test_episodes_keep_their_actions_and_show_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sees: bool) -> None:
    taken = make_dataset(tmp_path, monkeypatch, sees=sees)
    assert main(["convert", "minari", "slider/test-v0", "--out", "data/slider", "--size", "32x16"]) == 0
    dataset = Dataset("data/slider")
    dataset.check()
    assert dataset.spec.frame["fps"] == 60.0
    for split, index in {"train": 0, "validation": 1, "test": 2}.items():
        (episode,) = dataset.episodes(split)
        np.testing.assert_array_equal(episode.actions, taken[index] + 1)  # the environment's start at -1
        np.testing.assert_array_equal(episode.reward, taken[index].astype(np.float32))
        bright = (episode.frames[:, 8, :, 0] > 120).astype(float)
        moved = np.diff((bright * np.arange(32)).sum(axis=1) / bright.sum(axis=1))
        far = np.abs(moved) > 0.8
        assert far.any() and (np.sign(moved[far]) == taken[index][far]).all()


def test_an_environment_that_plays_differently_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_dataset(tmp_path, monkeypatch, sees=False)
    monkeypatch.setattr(slider, "WIDTH", 40)
    assert main(["convert", "minari", "slider/test-v0", "--out", "data/slider", "--size", "32x16"]) == 1
    assert "played again, it differs from step 0 on" in capsys.readouterr().err
    assert not (tmp_path / "data").exists() or not any((tmp_path / "data").iterdir())


def test_what_is_missing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_dataset(tmp_path, monkeypatch, sees=False, seeds=False)
    assert main(["convert", "minari", "slider/test-v0", "--out", "data/slider"]) == 1
    assert "no seed with which its environment could be played again" in capsys.readouterr().err
    assert main(["convert", "minari", "slider/none-v0", "--out", "data/slider"]) == 1
    assert "minari download slider/none-v0" in capsys.readouterr().err
    assert main(["convert", "minari", "slider/test-v0", "--out", "data/slider", "--camera", "top"]) == 1
    assert "camera:" in capsys.readouterr().err
