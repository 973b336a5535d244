"""Response of joints to velocities: films that obey, that do not, and that were not asked."""

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pytorch_msssim")

from dsa_runtime.spec import Box
from exporters.evaluation.config import EvaluationConfig
from exporters.evaluation.drift.free_player import free_actions, held_actions
from exporters.evaluation.response.config import ResponseConfig
from exporters.evaluation.response.joints import run_joint_response, simulate
from exporters.evaluation.response.trials import JointTrials, joint_ranges
from exporters.evaluation.response.turning import render_response
from exporters.evaluation.state.cases import state_cases
from tests.dots_world import (
    COLUMNS,
    EVALUATION,
    FPS,
    LIMIT_RAD,
    SPACE,
    TOP_RAD_S,
    DotsPlayer,
    DotsProbe,
    DotsWorld,
    draw,
    recorded_dots,
)
from tests.tiny_trained import GENERATOR, tiny_trained

HOLD = 5
ASKED_RAD = 2 / 3 * TOP_RAD_S * HOLD / FPS
BOX = Box(*(tuple(SPACE[key]) for key in ("low", "high", "names", "units")))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return recorded_dots(tmp_path_factory.mktemp("dots"))


@pytest.fixture(scope="module")
def trials():
    return JointTrials(DotsProbe(), BOX, EVALUATION.joints, np.array([[-LIMIT_RAD, LIMIT_RAD]]), FPS, HOLD)


def film(start, travel):
    """uint8[1, 1 + HOLD, 64, 64, 3] of a bar that turns from `start` by `travel` (rad)."""
    points = np.broadcast_to([[-0.6, 0.6], [-0.6, -0.6]], (HOLD + 1, 2, 2))
    return draw(points, start + np.linspace(0.0, travel, HOLD + 1), 64)[None]


def test_the_trials_ask_two_thirds_of_the_top_speed(trials):
    assert trials.names == ("turn +", "turn -", "rest")
    assert trials.action("turn +").tolist() == pytest.approx([0.0, TOP_RAD_S * 2 / 3])
    assert trials.action("turn -").tolist() == pytest.approx([0.0, -TOP_RAD_S * 2 / 3])
    assert not trials.action("rest").any() and trials.yardstick_rad == pytest.approx([ASKED_RAD])
    for name in trials.names:
        BOX.validate(trials.action(name))


@pytest.mark.parametrize(
    ("name", "start", "travel", "verdict"),
    [
        ("turn +", 0.0, 1.0, 1.0),
        ("turn +", 0.0, 0.6, 1.0),
        ("turn +", 0.0, 0.4, 0.0),
        ("turn +", 0.0, -1.0, 0.0),
        ("turn -", 0.0, -1.0, 1.0),
        ("turn -", 0.0, 1.0, 0.0),
        ("rest", 0.0, 0.0, 1.0),
        ("rest", 0.0, -0.4, 0.0),
        ("turn +", 1.1, 1.0, np.nan),  # beyond the limit, so it cannot be asked
        ("turn -", 1.1, -1.0, 1.0),
    ],
)
def test_a_film_obeys_or_not(trials, name, start, travel, verdict):
    found = trials.obeyed(name, film(start, travel * ASKED_RAD))
    assert np.array_equal(found, [verdict], equal_nan=True)


def test_angles_are_followed_the_shorter_way_round(trials):
    path = np.array([3.0, 3.1, -3.1, -3.0])[None, :, None]
    assert trials.gain("turn +", path) == pytest.approx([(2 * np.pi - 6.0) / ASKED_RAD])


def test_response_of_a_tiny_world_and_of_its_simulator(dataset):
    trained = tiny_trained(replace(GENERATOR, action_width=2))
    config = ResponseConfig(cases=6, hold=HOLD, horizons=(1, 6))
    ranges = joint_ranges(EVALUATION, dataset, "test")
    trials = JointTrials(DotsProbe(), BOX, EVALUATION.joints, ranges, FPS, HOLD)
    chosen = state_cases(dataset, "test", trained, COLUMNS, config.cases, 6)
    simulated = simulate(config, EVALUATION, DotsWorld(), DotsPlayer(), trials, 300)
    result = run_joint_response(config, EVALUATION, trained, chosen, trials, BOX, DotsProbe(), FPS, simulated)
    rows = {row["frames"]: row for row in result["held"]}
    assert list(rows)[:4] == ["1 step", "2 steps", "3 steps", "4 steps"]
    for name in ("simulator, its state", "simulator, its pictures"):
        assert rows[name]["all"]["share"] == 1.0 and rows[name]["all"]["cases"] >= 12
        assert rows[name]["gain"]["turn +"] == pytest.approx(1.0, abs=0.1)
    assert rows["4 steps"]["all"]["share"] < 1.0  # it was never trained
    errors = {row["frames"]: row["horizons"]["6"]["median"][0] for row in result["recorded"]}
    assert errors["real"] < 0.3 < errors["4 steps"]
    text = render_response(json.loads(json.dumps(result)))
    assert "| simulator, its state | 100.0 %" in text and "[1.00]" in text


def test_a_blind_player_holds_velocities_and_keeps_the_joint_inside(dataset):
    actions = free_actions(dataset, "test", 3000, 7, EVALUATION)
    assert actions.shape == (3000, 2) and actions.dtype == np.float32
    assert np.array_equal(actions[:500], free_actions(dataset, "test", 500, 7, EVALUATION))
    assert not np.array_equal(actions, free_actions(dataset, "test", 3000, 8, EVALUATION))
    for action in actions[::50]:
        BOX.validate(action)
    changes = np.flatnonzero(np.abs(np.diff(actions, axis=0)).any(axis=1))
    assert 5 < np.diff(changes).mean() < 14
    assert 0.15 < (actions[:, 1] == 0).mean() < 0.35
    low, high = joint_ranges(EVALUATION, dataset, "test")[0]
    blind = held_actions(dataset, "test", BOX, EvaluationConfig(), 3000, 7)  # the same without reckoning

    def at_the_ends(velocities):
        angle, hits = 0.0, 0
        for velocity in velocities:
            angle = np.clip(angle + velocity / FPS, low, high)
            hits += angle in (low, high)
        return hits / len(velocities)

    assert at_the_ends(actions[:, 1]) < 0.7 * at_the_ends(blind[:, 1])
