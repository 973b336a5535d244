"""Drift: statistics of the picture, forks at checkpoints, and a long run that is stopped and goes on."""

import json

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pytorch_msssim")
pytest.importorskip("matplotlib")

from exporters.evaluation.cases import held_out_cases
from exporters.evaluation.config import EvaluationConfig
from exporters.evaluation.drift.checkpoints import Checkpoints, Moments
from exporters.evaluation.drift.free_play import Free, SdkPlay, TorchPlay
from exporters.evaluation.drift.free_player import free_actions
from exporters.evaluation.drift.measure import DriftConfig, run_drift
from exporters.evaluation.drift.progress import Progress
from exporters.evaluation.drift.state import StateReadout
from exporters.evaluation.drift.statistics import first_run, frame_statistics, real_windows
from exporters.evaluation.drift.table import draw_drift, render_drift
from exporters.evaluation.interval import share
from exporters.evaluation.playing import play
from exporters.evaluation.response.action_probe import Reading
from exporters.evaluation.response.trials import TurnTrials
from exporters.packaging.describe import action_space
from tests.dots_world import DotsProbe
from tests.tiny_trained import CUT, DEGREES, NAMES, TURNS, WINDOW, recorded_world, tiny_trained


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return recorded_world(tmp_path_factory.mktemp("turning"))


@pytest.fixture(scope="module")
def trained():
    return tiny_trained()


class Replay:
    """Frames uint8[ticks, H, W, 3] as one session's free play."""

    identity = "a replay"

    def __init__(self, frames):
        self._frames, self.tick = frames, 0

    @property
    def frames(self):
        return self._frames[None, self.tick]

    def step(self, actions):
        self.tick += 1
        return Free(self.frames, np.array([2]))

    def film(self, action, hold):
        film = np.repeat(self.frames[:, None], 1 + hold, axis=1)
        film[:, 1:] += np.uint8(action)
        return film

    def snapshots(self):
        return None


class Echo:
    """Trials whose film obeys where its last frame is brighter than its first; odd moments cannot be asked."""

    names = ("one", "none")

    def action(self, name):
        return 1 if name == "one" else 0

    def obeyed(self, name, film):
        assert film.dtype == np.uint8 and film.shape[1] == 4
        brighter = film[:, 1:].mean(axis=(1, 2, 3, 4)) > film[:, 0].mean(axis=(1, 2, 3))
        return np.where(film[:, 0, 0, 0, 0] % 2 == 1, np.nan, brighter.astype(float))


def test_picture_statistics_by_hand():
    frames = np.zeros((1, 4, 4, 3), np.uint8)
    frames[0, :, 2:] = (100, 0, 0)
    red, green, _, contrast, energy, change = frame_statistics(np.zeros_like(frames), frames)[0]
    assert (red, green) == (50.0, 0.0)
    assert contrast == pytest.approx(frames.astype(float).std())
    # One of three steps to the right in each row, in one of three channels, is 100; down nothing changes.
    assert energy == pytest.approx(np.sqrt(100.0**2 / 9 / 2))
    assert change == pytest.approx(100 / 6)


def test_single_precision_is_enough_for_the_statistics():
    before, now = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64, 3), dtype=np.uint8)
    wide = now.astype(float)
    expected = [wide[..., c].mean(axis=(1, 2)) for c in range(3)] + [wide.std(axis=(1, 2, 3))]
    assert frame_statistics(before, now)[:, :4] == pytest.approx(np.stack(expected, axis=1), rel=1e-5)
    assert frame_statistics(before, now)[:, 5] == pytest.approx(np.abs(wide - before).mean(axis=(1, 2, 3)), rel=1e-5)


def test_a_reset_does_not_count_as_change(dataset):
    windows = real_windows(dataset, "test", CUT + 10)
    episode = dataset.read("test", 0)
    values = frame_statistics(episode.frames[: CUT + 10], episode.frames[1 : CUT + 11])
    kept = np.delete(values[:, -1], CUT - 1)
    assert windows[0, -1] == pytest.approx(kept.mean())
    assert windows[0, 0] == pytest.approx(values[:, 0].mean())


def test_runs_of_abnormal_windows():
    assert first_run(np.array([1, 1, 0, 1, 1, 1], bool), 3, 100) == 300
    assert first_run(np.array([1, 1, 0, 1, 1], bool), 3, 100) is None


def drift(frames, dataset, picture=None, **sizes):
    config = DriftConfig(ticks=len(frames) - 1, window=20, patience=3, sheet_columns=4, **sizes)
    actions = [np.zeros(config.ticks, int)]
    return {"engine": "a test", **run_drift(config, Replay(frames), actions, dataset, "test", picture=picture)}


def test_real_frames_do_not_collapse_and_broken_ones_do(dataset, tmp_path):
    real = dataset.read("test", 0).frames[CUT : CUT + 191]
    healthy = drift(real, dataset, tmp_path / "sheet.png")
    assert healthy["collapsed_at_tick"] == [None] and healthy["mean_steps"] == 2.0
    assert (tmp_path / "sheet.png").exists()
    frozen = np.concatenate([real[:101], np.repeat(real[100:101], 90, axis=0)])
    assert drift(frozen, dataset)["collapsed_at_tick"] == [100]
    grey = np.concatenate([real[:61], np.full_like(real[:130], 128)])
    result = drift(grey, dataset)
    assert result["collapsed_at_tick"] == [60]
    noise = np.random.default_rng(0).integers(0, 256, real.shape, dtype=np.uint8)
    assert drift(noise, dataset)["collapsed_at_tick"] == [0]
    assert "1 of 1 sessions collapsed, the first at tick 60" in render_drift(result)


def test_a_run_shorter_than_a_window_is_refused():
    with pytest.raises(ValueError, match=r"drift\.ticks: 50 are fewer than one window of 100"):
        DriftConfig(ticks=50)
    with pytest.raises(ValueError, match=r"drift\.sessions: must be at least 1"):
        DriftConfig(sessions=0)


def test_the_free_player_stays_near_the_front(dataset):
    actions = free_actions(dataset, "test", 3000, 0, EvaluationConfig())
    assert np.array_equal(actions, free_actions(dataset, "test", 3000, 0, EvaluationConfig()))
    heading = np.abs((np.cumsum(TURNS[actions] * DEGREES) + 180) % 360 - 180)
    assert set(actions) == set(range(len(NAMES)))
    assert np.mean(heading < 120) > 0.85  # a blind walk would spend two thirds of its time there


def test_forks_are_asked_before_each_checkpoint_and_counted_there():
    frames = np.full((60, 4, 4, 3), 10, np.uint8)
    frames[::4] += 1  # every fourth moment is odd: it cannot be asked
    replay, asked = Replay(frames), Checkpoints((10, 40), moments=5, spacing=3, hold=3, trials=Echo())
    assert [at for at, of in asked.when if of == 10] == [1, 4, 7, 10]  # there is no tick -2
    assert [at for at, of in asked.when if of == 40] == [28, 31, 34, 37, 40]
    for tick in range(1, 41):
        replay.tick = tick
        asked.look(tick, replay)
    first, second = asked.result()["checkpoints"]
    assert first["trials"]["one"] == {**first["trials"]["one"], "share": 1.0, "cases": 3}  # but for tick 4
    assert first["trials"]["none"]["share"] == 0.0 and first["all"]["share"] == 0.5
    assert first["difference"] is None
    assert second["moments"] == 3 and second["difference"]["points"] == 0.0  # but for 28 and 40
    again = Checkpoints((10, 40), 5, 3, 3, Echo(), asked.hits()[:6])
    assert len(again.hits()) == 6
    for tick in range(1, 41):
        replay.tick = tick
        again.look(tick, replay)
    assert np.array_equal(again.hits(), asked.hits(), equal_nan=True)


def test_trials_of_one_start_are_not_independent():
    shares = (np.random.default_rng(3).random(90) < 0.9).astype(float)  # its trials always agree
    found = Moments(shares, np.zeros(90, int)).share()
    assert found == pytest.approx(share(shares > 0.5), abs=0.002) and found["cases"] == 90
    full = Moments(np.ones(90), np.zeros(90, int)).share()
    assert full == pytest.approx(share(np.ones(90, bool)), abs=1e-4)
    asked = Checkpoints((10,), moments=5, spacing=2, hold=3, trials=Echo())
    replay = Replay(np.full((20, 4, 4, 3), 10, np.uint8))
    for tick in range(1, 11):
        replay.tick = tick
        asked.look(tick, replay)
    (row,) = asked.result()["checkpoints"]  # "one" always obeys, "none" never: five starts, not ten cases
    assert row["all"]["cases"] == 5 and row["all"]["high"] - row["all"]["low"] > 0.5


def test_free_play_through_the_sdk(tiny_world):
    actions = [(0, 3), (1, 2), (2, 1), (3, 0)]
    sessions = SdkPlay(tiny_world, [0, 1])
    first, films, played = sessions.frames, [], []
    for pair in actions:
        films.append(sessions.film(2, 3))
        played.append(sessions.step(pair))
    assert first.shape == (2, 8, 8, 3) and len(played) == 4
    assert all(free.frames.shape == (2, 8, 8, 3) and (free.steps >= 1).all() for free in played)
    assert np.array_equal(films[2][:, 0], played[1].frames)  # begins with the newest frame
    assert np.array_equal(films[2][0, 1], played[2].frames[0])  # the same action: the same next frame
    with tiny_world.session(1) as session:  # and nothing of it is left in the session
        for (_, asked), free in zip(actions, played, strict=True):
            assert np.array_equal(session.step(asked, steps=int(free.steps[1])).pixels, free.frames[1])
    sessions.close()


def test_free_play_in_torch_is_the_same_as_playing_cases(trained, dataset):
    cases = held_out_cases(dataset, "test", trained, 2, 5)
    asked = cases.actions[:, WINDOW:].argmax(dim=2).numpy()
    sessions = TorchPlay(trained, cases, 7, action_space(dataset.spec), None)
    assert np.array_equal(sessions.frames, cases.frames[:, WINDOW - 1])
    frames = []
    for tick in range(5):
        films = sessions.film(asked[0, tick], 1)
        frames.append(sessions.step(asked[:, tick]).frames)
        assert np.array_equal(films[0, 1], frames[-1][0])
    assert np.array_equal(np.stack(frames, axis=1), trained.decode(play(trained, cases, 7).latents))


class Stopped(Exception):
    pass


def long_run(tiny_world, dataset, progress, stop=None):
    """200 ticks of two sessions, saved after every tick; `stop`: the tick at which it is broken off."""
    config = DriftConfig(
        ticks=200, sessions=2, window=20, checkpoints=(60, 200), moments=3, hold=3, read_every=5, save_minutes=0.0
    )
    actions = [np.random.default_rng(seed).integers(0, 4, 200) for seed in (0, 1)]
    sessions = SdkPlay(tiny_world, [0, 1])
    calls = iter(range(1000))
    step = sessions.step

    def stopping(asked):
        if next(calls) == stop:
            raise Stopped
        return step(asked)

    sessions.step = stopping
    try:
        return run_drift(
            config, sessions, actions, dataset, "test", trials=Echo(), readout=EIGHT_PIXELS, progress=progress
        )
    finally:
        sessions.close()


class Brightness(DotsProbe):
    """Takes dots for there where a picture is bright."""

    def read(self, pictures, *, batch=256):
        count = len(pictures)
        bright = pictures.mean(axis=(1, 2, 3)) > 127
        return type(super().read(pictures))(
            np.zeros((count, 2, 2)), np.stack([bright, bright], axis=1), np.zeros((count, 1)), np.ones((count, 1))
        )


EIGHT_PIXELS = StateReadout(Brightness(), np.full((4, 8, 8, 3), 200, np.uint8))


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(tiny_world, dataset, tmp_path):
    whole = long_run(tiny_world, dataset, None)
    progress = tmp_path / "progress.npz"
    with pytest.raises(Stopped):
        long_run(tiny_world, dataset, progress, stop=130)
    assert progress.exists()
    resumed = long_run(tiny_world, dataset, progress, stop=70)  # the other 70 ticks are enough
    assert not progress.exists()
    for result in (whole, resumed):
        assert result.pop("seconds")["playing"] > 0 and result.pop("session_ticks_per_s") > 0
        result["config"].pop("save_minutes")
    assert json.dumps(whole) == json.dumps(resumed)
    assert [row["tick"] for row in whole["response"]["checkpoints"]] == [60, 200]
    assert whole["state"]["real"]["all_present"] == 1.0 and len(whole["state"]["stretches"]) == 40


def test_the_progress_of_another_run_is_not_taken_up(tmp_path):
    path = tmp_path / "progress.npz"
    Progress({"tick": 3}, {"sheet": np.arange(3)}, [b"\x00one", b"two"]).save(path, {"world": "a", "sizes": (1, 2)})
    found = Progress.load(path, {"world": "a", "sizes": (1, 2)})
    assert found.numbers == {"tick": 3} and found.snapshots == [b"\x00one", b"two"]
    assert found.arrays.keys() == {"sheet"}
    with pytest.raises(ValueError, match=r"progress\.npz: the progress of another drift run"):
        Progress.load(path, {"world": "b", "sizes": (1, 2)})
    path.write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(ValueError, match=r"progress\.npz: not the progress"):
        Progress.load(path, {})
    assert Progress.load(tmp_path / "none.npz", {}) is None


def test_the_curves_and_the_tables_show_response_and_state(tiny_world, dataset, tmp_path):
    result = {"engine": "the SDK", **long_run(tiny_world, dataset, None)}
    draw_drift(tmp_path / "curves.png", result)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    text = render_drift(json.loads(json.dumps(result)))
    assert "| tick | moments | one | none | all | change, of these sessions |" in text
    for row in result["response"]["checkpoints"][1:]:
        row["difference"]["sessions"] = 3
    text = render_drift(json.loads(json.dumps(result)))
    assert "| tick | moments | one | none | all | change |" in text and "of these sessions" not in text
    assert "| ticks | all there | red | green | certainty of bar_rad |" in text


def test_turning_trials_know_left_from_right():
    class Probe:
        def read(self, previous, current):
            turn = np.sign(current[:, 0, 0, 0].astype(float) - previous[:, 0, 0, 0])
            return Reading(turn, 7.0 * turn, turn > 9)

    space = action_space_of(NAMES)
    trials = TurnTrials(Probe(), space, 14.0)
    left = (10 + np.arange(9, dtype=np.uint8))[None, :, None, None, None] * np.ones((1, 1, 2, 2, 3), np.uint8)
    still = np.full_like(left, 10)
    assert [trials.obeyed(name, left).tolist() for name in trials.names] == [[1.0], [0.0], [0.0]]
    assert [trials.obeyed(name, left[:, ::-1]).tolist() for name in trials.names] == [[0.0], [1.0], [0.0]]
    assert [trials.obeyed(name, still).tolist() for name in trials.names] == [[0.0], [0.0], [1.0]]
    assert [trials.action(name) for name in trials.names] == [1, 2, 0]
    with pytest.raises(ValueError, match="'left'"):
        TurnTrials(Probe(), action_space_of(["noop", "up"]), 14.0)


def action_space_of(names):
    from dsa_runtime.spec import Discrete

    return Discrete(len(names), tuple(names))
