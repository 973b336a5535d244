"""The parts of the evaluation on a tiny untrained world and on made-up numbers whose verdict is known."""

import itertools

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pytorch_msssim")
pytest.importorskip("matplotlib")
pytest.importorskip("flip_evaluator")

import torch

from exporters.evaluation import fidelity
from exporters.evaluation.cases import held_out_cases
from exporters.evaluation.metrics import psnr
from exporters.evaluation.playing import play
from exporters.evaluation.response import turning as response
from exporters.evaluation.response.action_probe import Reading
from exporters.evaluation.response.config import ResponseConfig
from exporters.recording.episode import DatasetError
from tests.tiny_trained import (
    CUT,
    DEGREES,
    WINDOW,
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
    assert cases.recording.tolist() == [0] * 4 + [1] * 4
    assert cases.units.tolist() == list(range(8))  # too few for stretches of neighbours
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
    result = fidelity.summarise(values, steps, masks, fidelity.FidelityConfig(horizons=(8,)), np.arange(60))
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
    config = ResponseConfig(hold=8)
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
        read = response.read_held(ResponseConfig(), films, WallProbe())
        assert read["flash_under_noop"]["share"] == seen


def test_recorded_actions_are_read_from_the_frames_they_led_to(dataset, trained):
    config = ResponseConfig(horizons=(1, 4))
    cases = held_out_cases(dataset, "test", trained, 16, 6)
    truth = response.recorded_truth(config, cases, dataset, "test")
    read = response.read_recorded(truth, cases.frames[:, WINDOW - 1 :], WallProbe())
    for cell in read.values():
        assert cell["turn"]["share"] == 1.0 and cell["no_flash"]["share"] == 1.0
        assert cell["flash"]["cases"] == 0 or cell["flash"]["share"] == 1.0
    late = response.read_recorded(truth, cases.frames[:, WINDOW:], WallProbe())
    assert late["1"]["turn"]["share"] < 1.0


def test_response_of_a_tiny_world(dataset, trained, cases):
    config = ResponseConfig(hold=3, horizons=(1, 6), flash_over=2)
    result = response.run_response(config, trained, cases, dataset, "test", WallProbe())
    assert [row["steps"] for row in result["held"]] == [1, 2, 3, 4]
    assert result["held"][0]["all_turns"]["3"]["cases"] == 3 * len(cases)
    assert result["recorded"][-1]["frames"] == "real"
    text = response.render_response(result)
    assert "| real | 6 | 100.0 %" in text


def test_a_held_trigger_flashes_in_the_recordings(dataset):
    found = response.real_flash_under_fire(dataset, "test", 8)
    assert found["cases"] > 0 and found["share"] == 1.0
