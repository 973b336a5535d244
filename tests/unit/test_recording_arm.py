"""The arm world: its players anywhere, its physics and pictures where MuJoCo and a software renderer are installed."""

import importlib.util
import os

import numpy as np
import pytest

from exporters.recording.arm_policies import HoldPolicy, PushPolicy, arm_policy
from exporters.recording.environment import Environment, Observation
from exporters.recording.mujoco_arm import (
    BASE_Y_M,
    BLOCKS,
    FORE_M,
    STATE_NAMES,
    TABLE_X_M,
    TABLE_Y_M,
    UPPER_M,
    ArmConfig,
)
from exporters.recording.record import RecordConfig, play
from exporters.recording.worlds import KINDS

LIMITS = np.array([ArmConfig().shoulder_rad_s, ArmConfig().elbow_rad_s])


def column(name):
    return STATE_NAMES.index(name)


def tip_of(shoulder, elbow):
    upper = UPPER_M * np.array([np.sin(shoulder), -np.cos(shoulder)])
    return np.array([0.0, BASE_Y_M]) + upper + FORE_M * np.array([np.sin(shoulder + elbow), -np.cos(shoulder + elbow)])


def test_the_pushing_player_drives_the_tip_into_a_block():
    """Joints integrated as commanded: the tip passes within a block's half width of the place it was sent to."""
    policy = PushPolicy(ArmConfig())
    for seed in range(5):
        policy.begin(np.random.default_rng(seed))
        joints, nearest = np.array([0.3, -0.8]), np.inf
        places = np.array([[-0.2, 0.1], [0.1, -0.1], [0.25, 0.15]])
        for _ in range(40):
            state = np.zeros(len(STATE_NAMES), np.float32)
            state[:2], state[2:4] = joints, tip_of(*joints)
            for block, place in zip(BLOCKS, places, strict=True):
                state[column(f"{block}_x_m") :][:2] = place
            action = policy.act(Observation(np.zeros((1, 1, 3), np.uint8), state))
            assert action.dtype == np.float32 and (np.abs(action) <= LIMITS + 1e-6).all()
            joints = joints + action / 15.0
            nearest = min(nearest, np.linalg.norm(places - tip_of(*joints), axis=1).min())
        assert nearest < 0.085, seed


def test_the_holding_player_holds_rests_and_stays_inside_the_limits():
    policy = HoldPolicy(ArmConfig())
    policy.begin(np.random.default_rng(0))
    still = Observation(np.zeros((1, 1, 3), np.uint8), np.zeros(len(STATE_NAMES), np.float32))
    actions = np.stack([policy.act(still) for _ in range(3000)])
    assert (np.abs(actions) <= LIMITS).all()
    changes = (np.diff(actions, axis=0) != 0).any(axis=1).mean()
    assert 0.05 < changes < 0.2
    for joint in range(2):
        assert 0.15 < (actions[:, joint] == 0).mean() < 0.35


@pytest.mark.parametrize(
    ("settings", "name"), [({"height": 8}, "frame size"), ({"fps": 4.0}, "fps"), ({"elbow_rad_s": -1.0}, "elbow_rad_s")]
)
def test_bad_settings_are_refused(settings, name):
    with pytest.raises(ValueError, match=name):
        RecordConfig(environment="mujoco-arm", settings=settings)


def test_unknown_worlds_and_settings_are_named():
    with pytest.raises(ValueError, match=r"recording.environment: 'moon'.*mujoco-arm"):
        RecordConfig(environment="moon")
    with pytest.raises(ValueError, match=r"recording.settings.*gravity"):
        RecordConfig(environment="mujoco-arm", settings={"gravity": 1.0})


@pytest.fixture(scope="module")
def arm():
    if importlib.util.find_spec("mujoco") is None:
        pytest.skip("MuJoCo is not installed")
    os.environ.setdefault("MUJOCO_GL", "osmesa")
    import mujoco

    try:
        mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 16, 16).close()
    except Exception as error:  # PyOpenGL raises what the missing library happens to raise
        pytest.skip(f"MuJoCo cannot draw here (Debian: apt install libosmesa6): {type(error).__name__}")
    world = KINDS["mujoco-arm"].make(ArmConfig())  # where an empty scene can be drawn, ours must be
    yield world
    world.close()


def test_the_arm_is_an_environment_whose_seeds_repeat(arm):
    assert isinstance(arm, Environment)
    first, again, other = (play(arm, arm_policy(arm.config), seed, 40) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.frames, again.frames)
    np.testing.assert_array_equal(first.state, again.state)
    assert (first.actions != other.actions).any()
    assert first.actions.dtype == np.float32 and first.actions.shape == (40, 2)


def test_joints_follow_their_commanded_velocity(arm):
    arm.reset(4)
    before = arm.step(np.zeros(2)).observation.state[:2]
    side = -np.sign(before)
    for _ in range(8):
        state = arm.step(side * 0.5 * LIMITS).observation.state
    turned = (state[:2] - before) * side
    # Blocks may brake the arm a little; nothing stops it.
    assert (turned > 0.5 * 0.5 * LIMITS * 8 / 15).all() and (turned < 1.1 * 0.5 * LIMITS * 8 / 15).all()


def test_pictures_and_state_are_of_the_same_moment(arm):
    episode = play(arm, arm_policy(arm.config), 3, 30)
    tips = np.stack([tip_of(*joints) for joints in episode.state[:, :2]])
    np.testing.assert_allclose(episode.state[:, 2:4], tips, atol=1e-5)


def test_an_arrangement_says_nothing_about_its_player(arm):
    """Both are seeded with the same number."""
    shoulders = [arm.reset(seed).state[0] for seed in range(40)]
    first = [np.random.default_rng(seed).random() for seed in range(40)]
    assert abs(np.corrcoef(shoulders, first)[0, 1]) < 0.5


def test_pushed_blocks_move_fall_and_come_back_to_a_free_place(arm):
    episode = play(arm, PushPolicy(arm.config), 11, 500)
    blocks = np.stack([episode.state[:, column(f"{block}_x_m") :][:, :2] for block in BLOCKS], axis=1)
    low, high = np.transpose((TABLE_X_M, TABLE_Y_M))
    assert ((blocks >= low) & (blocks <= high)).all()
    dropped = np.flatnonzero(episode.state[:, column("dropped")])
    assert len(dropped) >= 3
    np.testing.assert_array_equal(np.flatnonzero(episode.reward) + 1, dropped)
    steps = np.linalg.norm(np.diff(blocks, axis=0), axis=-1)
    assert (steps[dropped - 1].max(axis=1) > 0.1).all()
    apart = [np.linalg.norm(blocks[:, i] - blocks[:, j], axis=-1) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert np.min(apart) > 0.16, "two blocks are in one place"
    carried = np.delete(steps, dropped - 1, axis=0)
    assert (carried > 0.005).any(axis=1).mean() > 0.15 and carried.max() < 0.15


def test_the_picture_shows_the_state(arm):
    """The centroid of each block's colour follows its place: x to the right, y up."""
    seen = [arm.reset(seed) for seed in range(30)]
    frames = np.stack([one.frame for one in seen]).astype(np.float64)
    state = np.stack([one.state for one in seen])
    for channel, block in enumerate(BLOCKS):
        others = frames[..., [c for c in range(3) if c != channel]].max(axis=-1)
        mask = (frames[..., channel] - others) > (90, 45, 55)[channel]  # the joint is orange
        assert (mask.sum(axis=(1, 2)) > 40).all(), block
        rows, columns = np.indices(mask.shape[1:])
        x = (mask * columns).sum(axis=(1, 2)) / mask.sum(axis=(1, 2))
        y = (mask * rows).sum(axis=(1, 2)) / mask.sum(axis=(1, 2))
        place = state[:, column(f"{block}_x_m") :][:, :2]
        assert np.corrcoef(x, place[:, 0])[0, 1] > 0.99
        assert np.corrcoef(y, place[:, 1])[0, 1] < -0.99
