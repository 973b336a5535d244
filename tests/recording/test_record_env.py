"""`record-env`: an environment becomes a dataset, a sheet and a recipe, through either command line."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gymnasium")
pytest.importorskip("dacite")

from dsa_runtime import cli
from exporters.recording import record
from exporters.recording.__main__ import main
from exporters.recording.dataset import Dataset
from exporters.recording.environment import Environment
from exporters.recording.episode import Episode
from exporters.recording.policies import Policy
from exporters.recording.recipe import Recipe, toml, world_name
from exporters.recording.record_env import parse_arguments, split_frames, tomllib

ID = "tests.recording.slider:Slider-v0"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a test; the players' modules are found all the same."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def record_env(*more: str) -> int:
    return main(
        ["record-env", ID, "--out", "data/Slider_World", "--frames", "240", "--workers", "1", "--size", "32x16", *more]
    )


def test_a_dataset_a_sheet_and_a_recipe_that_the_trainer_reads(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert record_env("--json", "--set", "life=100", "--licence", "CC0-1.0", "--names", "left,stay,right") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["name"] == "slider-world"
    dataset = Dataset(folder / "data/Slider_World")
    dataset.check()
    assert dataset.spec.licence == "CC0-1.0"
    assert dataset.spec.frame["fps"] == 20.0  # 60 a second, three of which go into a picture
    assert dataset.spec.action_space["names"] == ["left", "stay", "right"]
    assert {split: facts.frames for split, facts in dataset.spec.splits.items()} == {
        "validation": 21, "test": 21, "train": 210
    }  # fmt: skip
    assert (folder / found["sheet"]).stat().st_size > 0
    pytest.importorskip("torch")
    from exporters.training.config import load_config

    recipe = load_config(folder / "configs/slider-world.toml")
    assert recipe.dataset == "data/Slider_World"
    model = recipe.teacher.model
    assert (model.latent_height, model.latent_width, model.action_width) == (2, 4, 3)
    assert recipe.recording.world.arguments == {"life": 100}
    assert recipe.recording.world.repeat == 3
    assert recipe.recording.frames["train"] == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "life=4"], "never 10 pictures without a reset"),
        (["--set", "frozen=true"], "all pictures are the same"),
        (["--frames", "5"], "frames: at least 120"),
        (["--set", "life"], "set: 'life' is not of the form KEY=VALUE"),
        (["--minutes", "0"], "minutes: must be a positive number"),
        (["--minutes", "nan"], "minutes: must be a positive number"),
        (["--repeat", "0"], "repeat: must be at least 1"),
        (["--episode", "0"], "episode: must be at least 10 steps"),
        (["--episode", "9"], "episode: must be at least 10 steps"),
        (["--size", "20x20"], "multiples of 16"),
    ],
)
def test_what_cannot_be_recorded_leaves_nothing_behind(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert record_env(*options) == 1
    assert message in capsys.readouterr().err
    assert list(folder.iterdir()) == []


def always_reset(monkeypatch: pytest.MonkeyPatch, split: str) -> None:
    """As if the recordings of a split had no stretch without a reset."""
    first, real = record.RecordConfig().first_seed[split], record.play

    def play(environment: Environment, policy: Policy, seed: int, steps: int) -> Episode:
        episode = real(environment, policy, seed, steps)
        episode.cut[1:] |= first <= seed < first + 1_000_000
        return episode

    monkeypatch.setattr(record, "play", play)
    # In this process, which knows of it.
    monkeypatch.setattr(record, "ProcessPoolExecutor", lambda n, mp_context, **rest: ThreadPoolExecutor(n, **rest))


@pytest.mark.parametrize("split", ["validation", "test", "train"])
def test_only_held_out_recordings_need_a_stretch_without_a_reset(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    """Environments in which the random player dies early, CartPole for one, can be recorded all the same."""
    always_reset(monkeypatch, split)
    assert record_env("--set", "life=100") == (0 if split == "train" else 1)
    if split != "train":
        assert f"{split}/000000.npz: never 10 pictures without a reset" in capsys.readouterr().err
        assert not (folder / "data/Slider_World").exists(), "nothing is left that is in the way of another try"


def test_nothing_is_written_over(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "configs").mkdir()
    (folder / "configs/slider-world.toml").touch()
    assert record_env() == 1
    assert "choose another file with --config" in capsys.readouterr().err
    assert not (folder / "data").exists()


def test_unrepeatable_environments_and_short_lives_are_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert record_env("--set", "life=33", "--set", "wobble=true") == 0
    said = capsys.readouterr().err
    assert "equal seeds gave different pictures" in said
    assert "it is reset every 11 pictures" in said


def test_the_sdk_hands_its_command_on(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["record-env", "Nowhere-v0", "--out", "data/x"])
    assert stop.value.code == 2
    assert "Nowhere" in capfd.readouterr().err
    assert cli.main(["record-env", "--help"]) == 0
    assert "--policy" in capfd.readouterr().out


def test_without_a_checkout_the_sdk_says_what_to_do(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", [])
    monkeypatch.setattr("dsa_runtime.commands.record_env.__file__", "/installed/dsa_runtime/commands/record_env.py")
    assert cli.main(["record-env", "CartPole-v1", "--out", "data/x"]) == 2
    assert "checkout" in capsys.readouterr().err


def test_arguments_are_toml_or_text() -> None:
    given = ["a=3", "b=0.5", "c=true", "d=[1, 2]", "e=human", "f=", "g=2020-01-01"]
    assert parse_arguments(given) == {
        "a": 3, "b": 0.5, "c": True, "d": [1, 2], "e": "human", "f": "", "g": "2020-01-01"
    }  # fmt: skip
    assert split_frames(24_000, 500) == {"validation": 2000, "test": 2000, "train": 20_000}
    assert split_frames(1200, 500) == {"validation": 100, "test": 100, "train": 1000}


def test_values_and_names_survive_toml_and_the_world() -> None:
    value = {"a b": [1, 2.5, True], "quote": 'say "x"\\', "inner": {}, "text": "ä\n"}
    assert tomllib.loads(f"v = {toml(value)}")["v"] == value
    assert [world_name(name) for name in ("CarRacing-v3", "push_blocks", "ALE/Pong-v5")] == [
        "car-racing-v3", "push-blocks", "ale-pong-v5"
    ]  # fmt: skip
    with pytest.raises(ValueError, match="--name"):
        world_name("***")


def test_the_examples_recipe_is_what_is_written_for_it() -> None:
    path = Path(__file__).parents[2] / "examples/own_world/orchard.toml"
    table = tomllib.loads(path.read_text())
    frame, space = {"height": 64, "width": 64}, {"type": "Discrete", "n": 3}
    recipe = Recipe("orchard", Path("data/orchard"), table["description"], frame, space, 30.0, table["recording"])
    assert path.read_text() == recipe.text()


def test_the_example_is_a_good_environment_and_its_player_catches_apples() -> None:
    import gymnasium
    from gymnasium.utils.env_checker import check_env

    from examples.own_world.orchard import player

    environment = gymnasium.make("Orchard-v0", render_mode="rgb_array", disable_env_checker=True)
    check_env(environment.unwrapped)

    def caught(play: object) -> float:
        rng = np.random.default_rng(0)
        observation, _ = environment.reset(seed=3)
        paid = 0.0
        for _ in range(300):
            observation, reward, *_ = environment.step(play(observation, rng))  # type: ignore[operator]
            paid += float(reward)
        return paid

    assert caught(player) > 1.5 * caught(lambda observation, rng: int(rng.integers(3)))
