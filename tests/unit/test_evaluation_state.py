"""State read-back: the probe on dots that it must find, the moments it is asked about, and the gate."""

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pytorch_msssim")

from exporters.evaluation.config import EvaluationConfig, StateColumns
from exporters.evaluation.state.cases import Moving, state_cases
from exporters.evaluation.state.fidelity import FLOOR, STAYS, StateFidelityConfig, judge, render_state, run_state
from exporters.evaluation.state.frames import real_frames
from exporters.evaluation.state.probe import StateProbe, StateProbeConfig, train_state_probe
from exporters.recording.episode import DatasetError
from tests.dots_world import COLUMNS, EVALUATION, DotsProbe, apart, draw, recorded_dots, scattered_dots
from tests.tiny_trained import GENERATOR, WINDOW, tiny_trained

PIXEL = 2 / 32  # of the small dataset, in the dots world's metres


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return scattered_dots(tmp_path_factory.mktemp("small"), 1200)


@pytest.fixture(scope="module")
def probe(small):
    return train_state_probe(small, COLUMNS, StateProbeConfig(frames=1200, epochs=4, presence_frames=1200))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return recorded_dots(tmp_path_factory.mktemp("dots"))


@pytest.fixture(scope="module")
def trained():
    return tiny_trained(replace(GENERATOR, action_width=2))


def test_the_probe_finds_dots_and_angles_it_has_not_seen(small, probe):
    report = probe.evaluate(real_frames(small, COLUMNS, "test", 200))
    assert report["frames"] == 200
    for name in ("red", "green"):
        assert report["points_m"][name]["median"] < 1.3 * PIXEL, report
        assert report["points_m"][name]["present"] > 0.9 and report["points_m"][name]["noticed"] > 0.7, report
    assert report["angles_rad"]["bar_rad"]["median"] < 0.15, report


def test_a_dot_that_is_gone_is_missed_and_the_other_is_not(probe):
    rng = np.random.default_rng(5)
    points = apart(rng, 60)
    angle = rng.uniform(-1.0, 1.0, 60)
    there = probe.read(draw(points, angle, 32)).present
    points[:, 0] = 9.0
    gone = probe.read(draw(points, angle, 32)).present
    assert there[:, 0].mean() > 0.85 and gone[:, 0].mean() < 0.2
    assert gone[:, 1].mean() > 0.85


def test_a_kept_probe_reads_the_same_and_only_its_own_columns(small, probe, tmp_path):
    frames = real_frames(small, COLUMNS, "validation", 20).pictures
    probe.save(tmp_path / "probe.npz")
    again, reading = StateProbe.load(tmp_path / "probe.npz", COLUMNS).read(frames), probe.read(frames)
    for name in ("points_m", "present", "angles_rad", "certainty"):
        assert np.array_equal(getattr(again, name), getattr(reading, name))
    kept = StateProbe.load(tmp_path / "probe.npz", COLUMNS)
    assert kept.digest == probe.digest
    # Its measure of what is there counts too.
    other = {**probe._arrays, "least": probe._arrays["least"] + 1}
    assert StateProbe(COLUMNS, probe._size, other).digest != probe.digest
    with pytest.raises(ValueError, match="other columns"):
        StateProbe.load(tmp_path / "probe.npz", StateColumns(points={"red": ("red_x_m", "red_y_m")}))
    np.savez(tmp_path / "other.npz", weight=np.zeros(3))
    with pytest.raises(ValueError, match="not a state probe"):
        StateProbe.load(tmp_path / "other.npz", COLUMNS)
    with pytest.raises(ValueError, match=r"uint8\[B, 32, 32, 3\]"):
        probe.read(np.zeros((1, 64, 64, 3), np.uint8))


def test_a_table_that_does_not_fit_is_refused_by_name(small):
    EVALUATION.check(small.spec)
    with pytest.raises(ValueError, match=r"evaluation\.state\.points\.red: 'dots' has no column 'x'"):
        EvaluationConfig(StateColumns(points={"red": ("x", "red_y_m")})).check(small.spec)
    with pytest.raises(ValueError, match=r"evaluation\.joints: 'elbow'"):
        EvaluationConfig(COLUMNS, {"elbow": "bar_rad"}).check(small.spec)
    with pytest.raises(ValueError, match=r"evaluation\.state\.movers: 'blue'"):
        StateColumns(points={"red": ("a", "b")}, movers=("blue",))
    with pytest.raises(ValueError, match=r"evaluation\.joints: 'knee_rad'"):
        EvaluationConfig(COLUMNS, {"turn": "knee_rad"})


def test_moving_moments_move_and_nothing_jumps_in_them(dataset, trained):
    chosen = state_cases(dataset, "test", trained, COLUMNS, 9, 6, moving=Moving(6, 0.1))
    assert 3 <= len(chosen) <= 9
    assert (chosen.travel_m(6)[:, 0] > 0.1).all() and not chosen.jumped[:, 6].any()
    read = DotsProbe().read(chosen.cases.frames[:, WINDOW - 1 + 4])
    assert np.abs(read.points_m - chosen.points_m[:, 4]).max() < 0.05  # index 0 is the newest context frame
    assert np.abs(read.angles_rad - chosen.angles_rad[:, 4]).max() < 0.1
    with pytest.raises(DatasetError, match="something moves 5"):
        state_cases(dataset, "test", trained, COLUMNS, 9, 6, moving=Moving(6, 5.0))


def test_random_moments_know_where_the_simulator_stepped_in(dataset, trained):
    chosen = state_cases(dataset, "test", trained, COLUMNS, 40, 6)
    state = np.concatenate([dataset.read("test", i).state for i in range(2)])
    assert (state[:, -1] != 0).any()
    assert not chosen.jumped[:, 0].any()
    assert (np.diff(chosen.jumped.astype(int), axis=1) >= 0).all()  # once foreseen no longer, never again
    assert (chosen.travel_m(6)[~chosen.jumped[:, 6], 0] < 0.9).all()


def test_what_stands_beside_the_model_is_right(dataset, trained):
    config = StateFidelityConfig(seeds=(0,), horizons=(1, 6), gate_horizon=6, moved_m=0.1)
    some = state_cases(dataset, "test", trained, COLUMNS, 8, 6)
    moving = state_cases(dataset, "test", trained, COLUMNS, 8, 6, moving=config.moving)
    result = run_state(config, trained, some, moving, DotsProbe())
    rows = {(row["clips"], row["horizon"], row["system"]): row for row in result["rows"]}
    stays, floor = rows["moving", 6, STAYS], rows["moving", 6, FLOOR]
    travel = moving.travel_m(6)
    assert stays["pairs"] == (travel > 0.1).sum()
    assert stays["median_m"] == pytest.approx(np.median(travel[travel > 0.1]), rel=1e-5)
    assert floor["median_m"] < 0.03 < stays["median_m"] and floor["present"] == 1.0
    assert rows["all", 1, STAYS]["pairs"] == 2 * (~some.jumped[:, 1]).sum()
    assert rows["all", 6, "4 steps"]["pairs"] == 2 * (~some.jumped[:, 6]).sum()
    assert [row["passes"] for row in result["gate"]] == [False] * 4  # of so few clips it would not say otherwise
    text = render_state(json.loads(json.dumps(result)))
    assert f"| 6 | {stays['pairs']} | {1000 * stays['median_m']:.1f} /" in text and "undecided" in text


def test_the_gate_wants_half_the_error_and_enough_clips():
    rng = np.random.default_rng(0)
    stays = rng.uniform(0.06, 0.2, (80, 3, 1))
    keep = rng.random((80, 3)) < 0.5
    keep[:, 0] = True
    config = StateFidelityConfig()

    def verdict(factor, clips=80):
        model = factor * stays * rng.uniform(0.8, 1.2, (80, 3, 2))  # two noise seeds
        return judge(config, model[:clips], stays[:clips], keep[:clips])

    good, bad = verdict(0.3), verdict(0.7)
    assert good["passes"] and good["ratio"] == pytest.approx(0.3, rel=0.1)
    assert 0.25 < good["low"] < good["ratio"] < good["high"] < 0.35
    assert good["pairs"] == keep.sum() and good["clips"] == 80
    assert not bad["passes"] and bad["mean_ratio"] == pytest.approx(0.7, rel=0.1)
    assert not verdict(0.3, clips=40)["passes"]
    assert judge(config, stays, stays, np.zeros_like(keep)) == {"clips": 0, "pairs": 0, "passes": False}
