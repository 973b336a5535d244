"""Gymnasium environments as environments to record from."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("gymnasium")

from exporters.recording.environment import Environment
from exporters.recording.episode import DatasetError, validate_episode
from exporters.recording.gymnasium_policies import gymnasium_policy
from exporters.recording.gymnasium_world import GymnasiumConfig, GymnasiumWorld, check_moving, check_unbroken
from exporters.recording.record import play
from tests.recording import slider

ID = "tests.recording.slider:Slider-v0"


def config(**changes):
    arguments = changes.pop("arguments", {})
    return GymnasiumConfig(**{"id": ID, "height": 16, "width": 32, "arguments": arguments, **changes})


def recorded(settings, steps=60, seed=5):
    world = GymnasiumWorld(settings)
    try:
        episode = play(world, gymnasium_policy(settings, world), seed, steps)
    finally:
        world.close()
    validate_episode(episode, world.frame, world.action_space)
    return world, episode


def place_of(frames):
    """Column of the square, in pixels of the environment's own picture."""
    bright = (frames[:, 8, :, 0] > 120).astype(float)
    return 2 * (bright * np.arange(32)).sum(axis=1) / bright.sum(axis=1)


@pytest.mark.parametrize("actions", ["discrete", "buttons", "stick"])
def test_what_was_recorded_is_what_the_environment_was_told(actions):
    world, episode = recorded(config(arguments={"actions": actions, "life": 1000}))
    assert isinstance(world, Environment)
    assert world.frame == {"height": 16, "width": 32, "channels": 3, "fps": 60.0, "display_aspect": [2, 1]}
    # The environment pays what it did, so the recorded actions must add up to it.
    way = {
        "discrete": lambda a: a - 1.0,
        "buttons": lambda a: a[:, 1].astype(float) - a[:, 0],
        "stick": lambda a: a[:, 0],
    }[actions](episode.actions)
    np.testing.assert_allclose(episode.reward, way, atol=1e-6)
    moved = np.diff(place_of(episode.frames))
    far = np.abs(moved) > 1.5
    assert far.any() and (np.sign(moved[far]) == np.sign(way[far])).all()


def test_the_ends_of_a_finer_box_are_inside_it():
    """0.1 as float32 is above 0.1, and this environment asserts that its space holds what it is told."""
    _, episode = recorded(config(arguments={"actions": "fine", "life": 1000}))
    assert (episode.actions == np.float32(0.1)).any()


def test_equal_seeds_make_equal_recordings_and_lives_begin_differently():
    first, again, other = (recorded(config(), seed=seed)[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.frames, again.frames)
    np.testing.assert_array_equal(first.actions, again.actions)
    assert (first.frames != other.frames).any()
    assert np.flatnonzero(first.cut).tolist() == [20, 40, 60]
    assert len(set(place_of(first.frames[[0, 20, 40]]))) == 3


def test_an_action_is_held_for_the_steps_of_a_picture_and_the_rate_falls_with_them():
    world, episode = recorded(config(repeat=4, arguments={"life": 10}))
    assert world.frame["fps"] == 15.0
    assert np.flatnonzero(episode.cut).tolist()[:3] == [3, 6, 9]  # 4 + 4 + 2 steps
    np.testing.assert_allclose(episode.reward[:3], (episode.actions[:3] - 1.0) * [4, 4, 2])


def test_a_player_of_ones_own_plays_between_random_segments():
    _, episode = recorded(config(policy="tests.recording.slider:Homing", random_share=0.0, arguments={"life": 1000}))
    assert abs(place_of(episode.frames)[-1] - slider.WIDTH / 2) < 8
    for player, message in (("astray", "astray returned 7"), ("vague", r"policy: .*:vague returned 1\.0.*an integer")):
        with pytest.raises(ValueError, match=message):
            recorded(config(policy=f"tests.recording.slider:{player}", random_share=0.0))


def test_pictures_may_be_observed_and_wrappers_change_the_actions():
    _, episode = recorded(
        config(pictures="observation", wrappers=("tests.recording.slider:mirrored",), arguments={"sees": True})
    )
    np.testing.assert_allclose(episode.reward, 1.0 - episode.actions)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "Nowhere-v0"}, r"id: gymnasium.make\('Nowhere-v0'\) failed"),
        ({"id": "no_such_module:X-v0"}, "no_such_module"),
        ({"arguments": {"lifes": 3}}, "lifes"),
        ({"arguments": {"actions": "free"}}, "no bounds.*RescaleAction"),
        ({"arguments": {"actions": "text"}}, "only Discrete, MultiBinary and Box"),
        ({"height": 64, "width": 128}, "64x32 are smaller.*--size 64x32"),
        ({"names": ("left", "right")}, "names: 3 different ones"),
        ({"names": ("left", "", "right")}, "names: 3 different ones, none of them empty"),
        ({"arguments": {"undrawn": True}}, "id: .* cannot be drawn: .*pygame is not installed"),
        ({"pictures": "observation"}, "not a picture: float32"),
        ({"policy": "tests.recording.slider"}, "policy: .* not of the form module:name"),
        ({"policy": "tests.recording.slider:nobody"}, "policy: .*has no 'nobody'"),
        ({"wrappers": ("no_such_module:f",)}, "wrapper: 'no_such_module' cannot be imported"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        recorded(config(**changes))


def test_bad_settings_are_named():
    for changes, message in (
        ({"height": 20}, "multiples of 16"),
        ({"repeat": 0}, "repeat"),
        ({"fps": 0.0}, "fps"),
        ({"pictures": "none"}, "pictures"),
        ({"hold_s": 0.0}, "hold_s"),
        ({"hold_s": float("nan")}, "hold_s"),
        ({"random_share": 2.0}, "random_share"),
    ):
        with pytest.raises(ValueError, match=message):
            config(**changes)


def test_recordings_that_nothing_can_be_learned_from_are_refused():
    _, still = recorded(config(arguments={"frozen": True}))
    with pytest.raises(DatasetError, match="all pictures are the same"):
        check_moving(still, "x")
    _, short = recorded(config(arguments={"life": 5}))
    with pytest.raises(DatasetError, match="never 10 pictures without a reset"):
        check_unbroken(short, "x")
