"""Scripted players and the recorder, on a toy world and, where it is installed, on ViZDoom."""

import numpy as np
import pytest

from exporters.recording.__main__ import main
from exporters.recording.dataset import Dataset
from exporters.recording.environment import Environment, Observation, Target, Transition
from exporters.recording.policies import AimingPolicy, MixedPolicy, StickyRandomPolicy, SweepPolicy, default_policy
from exporters.recording.record import RecordConfig, play
from exporters.recording.vizdoom_world import ACTION_NAMES, VizdoomConfig

TURN = {0: 0, 1: 1, 2: -1, 3: 0, 4: 1, 5: -1}


class ToyWorld:
    """Turns 7 degrees a step; dies every 50 steps; a monster stands at the angle `monster_deg`."""

    state_names = ("angle_deg",)

    def __init__(self, monster_deg=None):
        self.frame = {"height": 4, "width": 4, "channels": 3, "fps": 10.0}
        self.action_space = {"type": "Discrete", "n": 6, "names": list(ACTION_NAMES)}
        self.monster_deg = monster_deg

    def reset(self, seed):
        self.angle, self.age = 0.0, 0
        self.rng = np.random.default_rng(seed)
        return self._observe()

    def step(self, action):
        self.age += 1
        cut = self.age % 50 == 0
        self.angle = 0.0 if cut else (self.angle + 7.0 * TURN[action]) % 360.0
        return Transition(self._observe(), float(action), cut)

    def close(self):
        pass

    def _observe(self):
        targets = []
        if self.monster_deg is not None:
            # Turned too far to the left, the player sees the monster on the right.
            offset = (self.angle - self.monster_deg + 180.0) % 360.0 - 180.0
            if abs(offset) < 45.0:
                targets.append(Target("Demon", offset / 90.0, 0.05, 0.01))
        frame = self.rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        return Observation(frame, np.array([self.angle], dtype=np.float32), targets)


def test_the_toy_is_an_environment():
    assert isinstance(ToyWorld(), Environment)


def test_equal_seeds_play_equal_games_and_others_do_not():
    first, again, other = (play(ToyWorld(), default_policy(), seed, 200) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.actions, again.actions)
    np.testing.assert_array_equal(first.frames, again.frames)
    assert (first.actions != other.actions).any()


def test_cuts_and_rewards_are_aligned_with_their_steps():
    episode = play(ToyWorld(), default_policy(), 3, 120)
    assert np.flatnonzero(episode.cut).tolist() == [50, 100]
    np.testing.assert_array_equal(episode.reward, episode.actions.astype(np.float32))
    assert episode.state[50, 0] == 0.0
    turned = (np.diff(episode.state[:, 0]) + 180.0) % 360.0 - 180.0
    expected = 7.0 * np.vectorize(TURN.get)(episode.actions)
    alive = ~episode.cut[1:]
    np.testing.assert_allclose(turned[alive], expected[alive], atol=1e-4)


@pytest.mark.parametrize("monster_deg", [-40.0, 40.0])
def test_the_aiming_player_turns_to_the_monster_and_fires(monster_deg):
    episode = play(ToyWorld(monster_deg), AimingPolicy(), 5, 49)
    heading = (episode.state[20:, 0] + 180.0) % 360.0 - 180.0
    assert np.abs(heading - monster_deg).max() < 14.0
    assert (episode.actions[20:] >= 3).mean() > 0.4


def test_the_mixture_covers_every_action_well():
    actions = np.concatenate([play(ToyWorld(20.0), default_policy(), seed, 2000).actions for seed in range(3)])
    shares = np.bincount(actions, minlength=6) / len(actions)
    assert shares.min() > 0.05
    turns = shares[[1, 2, 4, 5]].sum()
    assert turns > 0.4


@pytest.mark.parametrize("policy", [StickyRandomPolicy(), SweepPolicy()], ids=lambda policy: policy.name)
def test_players_hold_their_actions(policy):
    actions = play(ToyWorld(), policy, 0, 1000).actions
    assert 0.05 < (np.diff(actions) != 0).mean() < 0.5


def test_bad_mixtures_are_refused():
    with pytest.raises(ValueError, match="as many weights"):
        MixedPolicy([AimingPolicy()], [0.5, 0.5])
    with pytest.raises(ValueError, match="non-negative"):
        MixedPolicy([AimingPolicy()], [-1.0])


def test_bad_configurations_are_refused():
    with pytest.raises(ValueError, match="tics_per_step"):
        VizdoomConfig(tics_per_step=0)
    with pytest.raises(ValueError, match="frame size"):
        VizdoomConfig(height=4)
    with pytest.raises(ValueError, match="no first_seed"):
        RecordConfig(frames={"extra": 10})
    with pytest.raises(ValueError, match="at least one frame"):
        RecordConfig(frames={"train": 0})
    assert RecordConfig(frames={"train": 4500}).episode_steps("train") == [2000, 2000, 500]


def test_a_command_on_a_missing_dataset_explains_itself(tmp_path, capsys):
    assert main(["check", str(tmp_path / "nowhere")]) == 1
    assert "no dataset.json" in capsys.readouterr().err


def test_nothing_to_record_is_refused_not_replaced_by_the_recipe(tmp_path, capsys):
    recipe = "exporters/configs/defend_the_line.toml"
    assert main(["record", recipe, "--folder", str(tmp_path / "data"), "--train", "0"]) == 1
    assert "'train' needs at least one frame" in capsys.readouterr().err
    assert main(["record", str(tmp_path)]) == 1
    assert not (tmp_path / "data").exists()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    pytest.importorskip("vizdoom")
    folder = tmp_path_factory.mktemp("vizdoom") / "data"
    arguments = ["--validation", "60", "--test", "60", "--train", "120", "--episode", "60", "--workers", "2"]
    recipe = "exporters/configs/defend_the_line.toml"
    assert main(["record", recipe, "--folder", str(folder), *arguments]) == 0
    return Dataset(folder)


def test_vizdoom_turns_as_told(recorded):
    recorded.check()
    assert recorded.spec.complete
    assert recorded.spec.frame["fps"] == 17.5
    angle = recorded.spec.state.index("angle_deg")
    for episode in recorded.episodes("train"):
        turned = (np.diff(episode.state[:, angle]) + 180.0) % 360.0 - 180.0
        alive = ~episode.cut[1:]
        expected = np.vectorize(TURN.get)(episode.actions)
        np.testing.assert_array_equal(np.sign(turned)[alive], expected[alive])
        assert episode.frames.std() > 10
        assert (episode.state[:, recorded.spec.state.index("ammo")] > 0).all()


def test_vizdoom_recordings_can_be_made_again(recorded):
    from exporters.recording.vizdoom_world import VizdoomWorld

    world = VizdoomWorld()
    try:
        again = play(world, default_policy(), 1_000_001, 60)
    finally:
        world.close()
    kept = recorded.read("train", 1)
    np.testing.assert_array_equal(again.actions, kept.actions)
    np.testing.assert_array_equal(again.frames, kept.frames)


def test_an_unknown_scenario_is_named():
    pytest.importorskip("vizdoom")
    from exporters.recording.vizdoom_world import VizdoomWorld

    with pytest.raises(ValueError, match="no_such_scenario"):
        VizdoomWorld(VizdoomConfig(scenario="no_such_scenario"))
