"""The parts of the evaluation on a tiny untrained world and on made-up numbers whose verdict is known."""

import itertools

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pytorch_msssim")
pytest.importorskip("matplotlib")
pytest.importorskip("flip_evaluator")

import torch

from exporters.evaluation import drift, fidelity, response
from exporters.evaluation.action_probe import Reading
from exporters.evaluation.allocation import AllocationConfig, draw_trade_off, render_allocation, run_allocation
from exporters.evaluation.cases import held_out_cases
from exporters.evaluation.metrics import psnr
from exporters.evaluation.playing import play
from exporters.evaluation.policies import ConfidencePolicy
from exporters.recording.episode import DatasetError
from tests.tiny_trained import (
    CUT,
    DEGREES,
    NAMES,
    TURNS,
    WINDOW,
    calibration,
    recorded_world,
    tiny_trained,
    wall_frames,
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return recorded_world(tmp_path_factory.mktemp("turning"))


@pytest.fixture(scope="module")
def trained():
    return tiny_trained()


@pytest.fixture(scope="module")
def cases(dataset, trained):
    return held_out_cases(dataset, "test", trained, 8, 6)


class WallProbe:
    """Reads the turn from the shift of the wall, which is exact here, and the flash from its colour."""

    def read(self, previous, current):
        row, after = (frames[:, 10].astype(float) for frames in (previous, current))
        error = {
            turn: np.abs(np.roll(row, turn * DEGREES, axis=1) - after)[:, DEGREES:-DEGREES].mean(axis=(1, 2))
            for turn in (-1, 0, 1)
        }
        turn = np.stack([error[turn] for turn in (-1, 0, 1)]).argmin(axis=0) - 1
        return Reading(turn, turn * float(DEGREES), current[:, 38, 32, 0] > 240)


def film(turn, hold, flash_at=None):
    """uint8[4, 1 + hold, 64, 64, 3] of the wall under a constant turn."""
    rng = np.random.default_rng(0)
    frames = np.stack(
        [wall_frames((start + turn * DEGREES * np.arange(hold + 1)) % 360, rng) for start in (0, 9, 50, 77)]
    )
    if flash_at is not None:
        frames[:, flash_at, 30:48, 26:38] = (255, 230, 180)
    return frames


def test_cases_hold_what_was_recorded_and_no_reset(dataset, trained, cases):
    episodes = [dataset.read("test", 0), dataset.read("test", 1)]
    assert len(cases) == 8 and cases.horizon == 6 and cases.future.shape == (8, 6, 64, 64, 3)
    starts = []
    for row in range(8):
        episode = episodes[row // 4]
        windows = (episode.frames[i : i + 9] for i in range(len(episode.frames) - 8))
        start = next(i for i, window in enumerate(windows) if np.array_equal(window, cases.frames[row]))
        starts.append(start)
        assert not (start < CUT < start + 9)
        asked = cases.actions[row].argmax(dim=1).numpy()
        assert np.array_equal(asked[1:], episode.actions[start : start + 8])  # actions[j] led to frames[j]
    for recording in (starts[:4], starts[4:]):
        assert all(b - a >= 6 for a, b in itertools.pairwise(recording))
    assert torch.allclose(cases.latents, trained.encode(cases.frames[:, :WINDOW]))


def test_a_horizon_longer_than_the_recordings_is_refused(dataset, trained):
    with pytest.raises(DatasetError, match="without a cut"):
        held_out_cases(dataset, "test", trained, 4, 250)


def test_a_shorter_schedule_and_a_rule_that_stops_there_play_the_same(trained, cases):
    fixed = play(trained, cases, 3, steps=2)
    ruled = play(trained, cases, 3, lambda view: torch.full((len(cases),), 2))
    assert torch.allclose(fixed.latents, ruled.latents, atol=1e-5)
    assert (fixed.steps == 2).all() and (ruled.steps == 2).all()
    assert not torch.allclose(ruled.latents, ruled.full)


def test_all_rules_meet_the_same_noise(trained, cases):
    one, four = (play(trained, cases, 3, lambda view, k=k: torch.full((len(cases),), k)) for k in (1, 4))
    assert torch.equal(one.full[:, 0], four.full[:, 0])  # before a rule has had any influence
    assert not torch.allclose(one.full[:, 1], four.full[:, 1])
    assert torch.equal(four.full, four.latents)
    assert not torch.allclose(four.latents, play(trained, cases, 4).latents)


def test_an_action_changes_its_own_tick_and_later_ones(trained, cases):
    other = cases.under(torch.eye(6)[3])
    same_start = cases.actions.clone()
    same_start[:, WINDOW + 2 :] = other.actions[:, WINDOW + 2 :]
    changed = type(cases)(cases.frames, cases.latents, same_start)
    before, after = play(trained, cases, 0).latents, play(trained, changed, 0).latents
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 2:], after[:, 2:])


def test_fidelity_of_a_tiny_world(trained, cases, tmp_path):
    config = fidelity.FidelityConfig(seeds=(0, 1), horizons=(1, 6))
    result = fidelity.run_fidelity(config, trained, cases, None, tmp_path / "films.png")
    assert result["systems"] == ["copy last", "autoencoder", "1 step", "2 steps", "3 steps", "4 steps"]
    row = next(r for r in result["means"] if (r["frames"], r["horizon"], r["system"]) == ("all", 6, "copy last"))
    expected = psnr(cases.future[:, 5], cases.frames[:, WINDOW - 1]).mean()
    assert row["psnr_db"]["mean"] == pytest.approx(expected)
    assert (tmp_path / "films.png").stat().st_size > 1000
    alone, rollout = ([r for r in result[key] if r["horizon"] == 1] for key in ("added_steps_alone", "added_steps"))
    for one, other in zip(alone, rollout, strict=True):  # at horizon 1 the frame is the rollout
        assert one["mean"] == pytest.approx(other["mean"], abs=0.02)
    assert [r["mean"] for r in result["added_steps_alone"]] != [r["mean"] for r in result["added_steps"]]
    text = fidelity.render_fidelity(result)
    assert f"| 6 | copy last | {expected:.2f} ±" in text and "FLIP" in text and "LPIPS" not in text.split("\n\n")[2]


def test_the_verdict_on_added_steps_is_the_one_that_was_built_in():
    rng = np.random.default_rng(0)
    hard = np.arange(60) % 4 == 3
    noise = rng.normal(0.3, 0.05, (60, 1, 1))

    def lpips(gain):
        return {"lpips": noise + rng.normal(0, 0.002, (60, 3, 1)) - gain * hard[:, None, None]}

    values = {
        "copy last": {"lpips": noise + 0.2},
        "autoencoder": lpips(0.2),
        "1 step": lpips(0.0),
        "2 steps": lpips(0.05),
    }
    easy = np.arange(60) % 4 == 0
    masks = {"all": np.ones((60, 1), bool), "easy": easy[:, None], "hard": hard[:, None]}
    steps = {name: values[name] for name in ("1 step", "2 steps")}
    result = fidelity.summarise(values, steps, masks, fidelity.FidelityConfig(horizons=(8,)), 60)
    assert result["added_steps_alone"] == result["added_steps"]
    verdicts = {row["frames"]: row["verdict"] for row in result["added_steps"]}
    assert verdicts["hard"] == verdicts["all"] == "better"
    drop = next(row for row in result["added_steps"] if row["frames"] == "hard")
    assert drop["mean"] == pytest.approx(-0.05, abs=0.002) and drop["low"] < drop["mean"] < drop["high"] < 0
    assert abs(next(row for row in result["added_steps"] if row["frames"] == "easy")["mean"]) < 0.002
    assert all(row["verdict"] == "better" for row in result["against_copy_last"])
    assert fidelity.verdict("psnr_db", 1) == "better" and fidelity.verdict("flip", 1) == "worse"
    assert fidelity.verdict("ssim", 0) == "unclear"


def test_easy_and_hard_are_quarters_by_real_change(cases):
    masks = fidelity.masks(cases, (1, 6))
    assert masks["easy"].sum(axis=0).tolist() == masks["hard"].sum(axis=0).tolist() == [2, 2]
    change = np.abs(np.diff(cases.frames[:, WINDOW - 1 :].astype(int), axis=1)).mean(axis=(2, 3, 4))[:, [0, 5]]
    for column in range(2):
        assert change[masks["easy"][:, column], column].max() <= change[masks["hard"][:, column], column].min()


def test_a_world_that_obeys_gets_full_marks_and_one_that_turns_the_wrong_way_none():
    config = response.ResponseConfig(hold=8)
    obedient = {"left": film(1, 8), "right": film(-1, 8), "noop": film(0, 8), "fire": film(0, 8, flash_at=3)}
    read = response.read_held(config, obedient, WallProbe())
    assert read["all_turns"]["1"]["share"] == read["all_turns"]["8"]["share"] == 1.0
    assert read["flash_under_fire"]["share"] == 1.0 and read["flash_under_noop"]["share"] == 0.0
    mirrored = {**obedient, "left": obedient["right"], "right": obedient["left"], "fire": film(0, 8)}
    read = response.read_held(config, mirrored, WallProbe())
    assert read["turns"]["left"]["1"]["share"] == read["turns"]["right"]["8"]["share"] == 0.0
    assert read["turns"]["noop"]["1"]["share"] == 1.0 and read["flash_under_fire"]["share"] == 0.0


def test_an_old_flash_under_noop_is_not_held_against_the_world():
    for flash_at, seen in ((4, 0.0), (5, 1.0)):
        films = {"left": film(1, 8), "right": film(-1, 8), "noop": film(0, 8, flash_at=flash_at), "fire": film(0, 8)}
        read = response.read_held(response.ResponseConfig(), films, WallProbe())
        assert read["flash_under_noop"]["share"] == seen


def test_recorded_actions_are_read_from_the_frames_they_led_to(dataset, trained):
    config = response.ResponseConfig(horizons=(1, 4))
    cases = held_out_cases(dataset, "test", trained, 16, 6)
    truth = response.recorded_truth(config, cases, dataset, "test")
    read = response.read_recorded(truth, cases.frames[:, WINDOW - 1 :], WallProbe())
    for cell in read.values():
        assert cell["turn"]["share"] == 1.0 and cell["no_flash"]["share"] == 1.0
        assert cell["flash"]["cases"] == 0 or cell["flash"]["share"] == 1.0
    late = response.read_recorded(truth, cases.frames[:, WINDOW:], WallProbe())
    assert late["1"]["turn"]["share"] < 1.0


def test_response_of_a_tiny_world(dataset, trained, cases):
    config = response.ResponseConfig(hold=3, horizons=(1, 6), flash_over=2)
    result = response.run_response(config, trained, cases, dataset, "test", WallProbe())
    assert [row["steps"] for row in result["held"]] == [1, 2, 3, 4]
    assert result["held"][0]["all_turns"]["3"]["cases"] == 3 * len(cases)
    assert result["recorded"][-1]["frames"] == "real"
    text = response.render_response(result)
    assert "| real | 6 | 100.0 %" in text


def test_a_held_trigger_flashes_in_the_recordings(dataset):
    found = response.real_flash_under_fire(dataset, "test", 8)
    assert found["cases"] > 0 and found["share"] == 1.0


def test_picture_statistics_by_hand():
    frames = np.zeros((1, 4, 4, 3), np.uint8)
    frames[0, :, 2:] = (100, 0, 0)
    red, green, _, contrast, energy, change = drift.frame_statistics(np.zeros_like(frames), frames)[0]
    assert (red, green) == (50.0, 0.0)
    assert contrast == pytest.approx(frames.astype(float).std())
    # One of three steps to the right in each row, in one of three channels, is 100; down nothing changes.
    assert energy == pytest.approx(np.sqrt(100.0**2 / 9 / 2))
    assert change == pytest.approx(100 / 6)


def test_a_reset_does_not_count_as_change(dataset):
    windows = drift.real_windows(dataset, "test", CUT + 10)
    episode = dataset.read("test", 0)
    values = drift.frame_statistics(episode.frames[: CUT + 10], episode.frames[1 : CUT + 11])
    kept = np.delete(values[:, -1], CUT - 1)
    assert windows[0, -1] == pytest.approx(kept.mean())
    assert windows[0, 0] == pytest.approx(values[:, 0].mean())


def test_runs_of_abnormal_windows():
    assert drift.first_run(np.array([1, 1, 0, 1, 1, 1], bool), 3, 100) == 300
    assert drift.first_run(np.array([1, 1, 0, 1, 1], bool), 3, 100) is None


def replay(frames):
    """Frames uint8[ticks, H, W, 3] as one session's free play."""
    return (drift.Free(frame[None], np.array([2])) for frame in frames)


def test_real_frames_do_not_collapse_and_broken_ones_do(dataset, tmp_path):
    episode = dataset.read("test", 0)
    real = episode.frames[CUT : CUT + 191]

    def collapse(frames, picture=None):
        config = drift.DriftConfig(ticks=len(frames) - 1, window=20, patience=3, sheet_columns=4)
        return drift.run_drift(config, replay(frames[1:]), frames[:1], dataset, "test", picture)

    healthy = collapse(real, tmp_path / "sheet.png")
    assert healthy["collapsed_at_tick"] == [None] and healthy["mean_steps"] == 2.0
    assert (tmp_path / "sheet.png").exists()
    frozen = np.concatenate([real[:101], np.repeat(real[100:101], 90, axis=0)])
    assert collapse(frozen)["collapsed_at_tick"] == [100]
    grey = np.concatenate([real[:61], np.full_like(real[:130], 128)])
    assert collapse(grey)["collapsed_at_tick"] == [60]
    noise = np.random.default_rng(0).integers(0, 256, real.shape, dtype=np.uint8)
    assert collapse(noise)["collapsed_at_tick"] == [0]
    text = drift.render_drift({"engine": "a test", **collapse(grey)})
    assert "1 of 1 sessions collapsed, the first at tick 60" in text


def test_the_free_player_stays_near_the_front(dataset):
    actions = drift.free_actions(dataset, "test", 3000, seed=0)
    assert np.array_equal(actions, drift.free_actions(dataset, "test", 3000, seed=0))
    heading = np.abs((np.cumsum(TURNS[actions] * DEGREES) + 180) % 360 - 180)
    assert set(actions) == set(range(len(NAMES)))
    assert np.mean(heading < 120) > 0.85  # a blind walk would spend two thirds of its time there


def test_free_play_through_the_sdk(tiny_world):
    actions = [np.array([0, 1, 2, 3]), np.array([3, 2, 1, 0])]
    first, ticks = drift.play_sdk(tiny_world, [0, 1], actions)
    played = list(ticks)
    assert first.shape == (2, 8, 8, 3) and len(played) == 4
    assert all(free.frames.shape == (2, 8, 8, 3) and (free.steps >= 1).all() for free in played)
    with tiny_world.session(1) as session:
        assert np.array_equal(session.step(3, steps=int(played[0].steps[1])).pixels, played[0].frames[1])


def test_free_play_in_torch_is_the_same_as_playing_cases(trained, dataset):
    cases = held_out_cases(dataset, "test", trained, 2, 5)
    asked = cases.actions[:, WINDOW:].argmax(dim=2).numpy()
    first, ticks = drift.play_torch(trained, cases, 7, list(asked), None)
    frames = np.stack([free.frames for free in ticks], axis=1)
    assert np.array_equal(first, cases.frames[:, WINDOW - 1])
    assert np.array_equal(frames, trained.decode(play(trained, cases, 7).latents))


@pytest.fixture(scope="module")
def allocated(trained, cases):
    logits = []

    def watch(view):
        logits.append(torch.stack([estimate.logit for estimate in view.estimates[:-1]]))
        return torch.ones(len(cases), dtype=torch.long)

    play(trained, cases, 0, watch)
    low, high = torch.cat(logits, dim=1).quantile(torch.tensor([0.1, 0.9]), dim=1)
    table = calibration(*zip(low.tolist(), high.tolist(), strict=True))
    config = AllocationConfig(seeds=(0, 1), mean_steps=(2.0, 3.0), horizons=(1, 6))
    return run_allocation(config, trained, table, cases, None), table


def test_controls_spend_exactly_what_the_confidence_spends(allocated):
    result, _ = allocated
    rules = {row["rule"]: row for row in result["rules"]}
    assert rules["3 steps"]["mean_steps"] == 3.0 and rules["4 steps"]["tick_rms"]["mean"] == 0.0
    for threshold in ("0.2500", "0.7500"):
        tested = rules[f"confidence @ {threshold}"]
        for control in ("random", "motion", "oracle"):
            assert rules[f"{control} @ {threshold}"]["mean_steps"] == pytest.approx(tested["mean_steps"])
        for control in ("random", "motion"):
            assert rules[f"{control} @ {threshold}"]["step_shares"] == pytest.approx(tested["step_shares"])
    assert rules["first full @ 2"]["mean_steps"] == pytest.approx((4 + 5 * 2) / 6)
    assert sum(0 < share < 1 for share in rules["confidence @ 0.7500"]["step_shares"]) >= 3


def test_differences_are_confidence_minus_control(allocated):
    result, _ = allocated
    rules = {row["rule"]: row for row in result["rules"]}
    for row in result["differences"]:
        if row["against"] != "fixed":
            tested, control = (rules[f"{name} @ {row['threshold']:.4f}"] for name in ("confidence", row["against"]))
            gap = tested[row["score"]]["mean"] - control[row["score"]]["mean"]
            assert row["mean"] == pytest.approx(gap, abs=1e-9)
    assert {row["against"] for row in result["differences"]} == {"fixed", "random", "motion", "oracle"}
    assert "| confidence is |" in render_allocation(result)


def test_the_rules_steps_are_the_thresholds(allocated, trained, cases):
    result, table = allocated
    steps = [play(trained, cases, seed, ConfidencePolicy(0.75, table["within_delta"])).steps for seed in (0, 1)]
    row = next(r for r in result["rules"] if r["rule"] == "confidence @ 0.7500")
    assert row["mean_steps"] == pytest.approx(float(torch.cat(steps).double().mean()))


def test_the_trade_off_is_drawn(allocated, tmp_path):
    draw_trade_off(tmp_path / "trade-off.png", allocated[0])
    assert (tmp_path / "trade-off.png").read_bytes().startswith(b"\x89PNG")
