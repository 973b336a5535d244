"""Intervals: what they hold, and how often, on numbers whose truth is known."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pytorch_msssim")
pytest.importorskip("matplotlib")

from scipy.stats import ttest_1samp

from exporters.evaluation.allocation.comparison import judge
from exporters.evaluation.allocation.ranking import spearman
from exporters.evaluation.interval import interval, neighbours, per_case, pooled_interval, pooled_ratio, share


def test_the_unit_of_an_interval_is_the_case():
    values = np.array([[1.0, 3.0], [5.0, 7.0], [0.0, 2.0]])
    assert per_case(values).tolist() == [2.0, 6.0, 1.0]
    many = interval(np.repeat(values, 50, axis=1))  # fifty times the seeds are not fifty times the evidence
    once = interval(values)
    assert many == once
    assert once.mean == 3.0
    assert once.standard_error == pytest.approx(np.std([2.0, 6.0, 1.0], ddof=1) / np.sqrt(3))
    students = ttest_1samp([2.0, 6.0, 1.0], 0).confidence_interval()
    assert [once.low, once.high] == pytest.approx([students.low, students.high])
    assert np.isnan(interval(values[:1]).low) and interval(values[:1]).sign == 0


def test_an_interval_knows_on_which_side_of_zero_it_lies():
    noise = np.random.default_rng(0).normal(0, 1, 200)
    assert [interval(noise + shift).sign for shift in (-1.0, 0.0, 1.0)] == [-1, 0, 1]
    assert np.isnan(interval(np.empty((0, 3))).mean)


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        found = interval(rng.normal(1.0, 1.0, 40))
        covered += found.low <= 1.0 <= found.high
    assert 175 <= covered <= 199


def test_trainings_are_units_of_their_own():
    rng = np.random.default_rng(1)
    cases = rng.normal(0.0, 1.0, 200)
    same = np.stack([cases + 0.5] * 3)
    # Three times the same training is no more evidence about the cases than one.
    assert pooled_interval(same).low == pytest.approx(pooled_interval(same[:1]).low)
    assert pooled_interval(same[:1]).low == pytest.approx(interval(cases + 0.5).low, abs=1e-9)
    apart = same + np.array([[-0.6], [0.0], [0.6]])
    assert pooled_interval(apart).mean == pytest.approx(pooled_interval(same).mean)
    assert pooled_interval(apart).standard_error > 3 * pooled_interval(same).standard_error
    holes = same.copy()
    holes[1, 3] = np.nan
    assert pooled_interval(holes).mean == pytest.approx(np.delete(cases, 3).mean() + 0.5)
    assert np.isnan(pooled_interval(np.full((2, 4), np.nan)).low)


def test_a_difference_counts_only_if_every_training_agrees():
    cases = np.random.default_rng(2).normal(0.0, 0.1, 400)
    agreed = np.stack([cases - 1.0, cases - 1.1, cases - 0.9])
    found = judge(agreed, "lpips_real")
    assert found["verdict"] == "better" and found["trainings"] == pytest.approx([one.mean() for one in agreed])
    assert judge(-agreed, "lpips_real")["verdict"] == judge(agreed, "psnr_real_db")["verdict"] == "worse"
    torn = np.stack([cases - 1.0] * 30 + [cases + 0.5])
    assert pooled_interval(torn).high < 0 and judge(torn, "lpips_real")["verdict"] == "unclear"
    assert judge(agreed + 1.0, "lpips_real")["verdict"] == "unclear"


def test_a_share_of_nothing_is_no_number():
    rng = np.random.default_rng(3)
    gain = rng.normal(1.0, 0.2, (3, 60))
    found = pooled_ratio(0.6 * gain, gain)
    assert [found.mean, found.low, found.high] == pytest.approx([0.6] * 3)
    noisy = pooled_ratio(0.6 * gain + rng.normal(0, 0.3, gain.shape), gain)
    assert noisy.low < 0.6 < noisy.high
    assert np.isnan(pooled_ratio(gain, gain - gain.mean()).mean)
    assert np.isnan(pooled_ratio(-0.3 * gain, -gain).mean)  # a share of a loss is none either


def test_the_interval_of_a_share_covers_the_truth():
    rng, held = np.random.default_rng(8), 0
    for _ in range(200):
        gain = rng.normal(0.6, 1.0, (3, 60)) + rng.normal(0.0, 0.03, (3, 1))
        found = pooled_ratio(0.5 * gain + rng.normal(0, 0.3, gain.shape), gain)
        assert np.isnan(found.mean) or found.low < found.mean < found.high
        held += bool(np.isnan(found.mean)) or found.low <= 0.5 <= found.high
    assert held >= 0.93 * 200


@pytest.mark.parametrize("trainings", [3, 5])
@pytest.mark.parametrize("cases", [48, 600])
@pytest.mark.parametrize("shared", [1.0, 0.1])
def test_the_interval_over_few_trainings_covers_the_truth(trainings, cases, shared):
    rng, held = np.random.default_rng(0), 0
    for _ in range(600):
        values = rng.normal(0, 0.3, (trainings, 1)) + rng.normal(0, shared, cases)
        values = values + rng.normal(0, np.sqrt(1 - shared**2), (trainings, cases))
        found = pooled_interval(values)
        held += found.low <= 0 <= found.high
    assert held >= 0.93 * 600


def test_cases_that_are_alike_are_one_unit():
    rng, held, naive = np.random.default_rng(4), 0, 0
    units = np.arange(20).repeat(15)
    for _ in range(300):
        values = rng.normal(0, 0.5, (1, 20)).repeat(15, axis=1) + rng.normal(0, 1, (3, 300))
        found, alone = pooled_interval(values, units), pooled_interval(values)
        held, naive = held + (found.low <= 0 <= found.high), naive + (alone.low <= 0 <= alone.high)
    assert held >= 0.93 * 300 > 0.85 * 300 > naive
    same = np.random.default_rng(5).normal(0, 1, (3, 20)).repeat(15, axis=1)  # fifteen copies are not more evidence
    copied, once = pooled_interval(same, units), pooled_interval(same[:, ::15])
    assert [copied.low, copied.high] == pytest.approx([once.low, once.high])
    holes = np.where(np.arange(300) < 15, np.nan, same)
    assert pooled_interval(holes, units).low == pytest.approx(pooled_interval(same[:, 15::15]).low)
    assert interval(same[0], units).low == pytest.approx(interval(same[0, ::15]).low)


def test_neighbours_in_a_recording_are_one_cluster():
    assert neighbours(np.arange(12).repeat(9)).tolist() == np.arange(12).repeat(9).tolist()
    assert np.bincount(neighbours(np.arange(4).repeat(150))).tolist() == [15] * 40
    assert np.bincount(neighbours(np.arange(4).repeat(12))).tolist() == [4] * 12
    assert np.bincount(neighbours(np.array([0] * 7 + [1] * 8))).tolist() == [1] * 15
    assert neighbours(np.zeros(8, int)).tolist() == list(range(8))
    uneven = neighbours(np.array([0] * 40 + [1] * 3))
    assert np.bincount(uneven).min() >= 3 and uneven.max() + 1 >= 10 and (np.diff(uneven) >= 0).all()
    assert uneven[39] != uneven[40]  # none spans two recordings
    assert neighbours(np.empty(0, int)).tolist() == []


def test_a_rank_correlation_is_at_most_one():
    rng = np.random.default_rng(6)
    benefit = rng.random((40, 2))
    found = spearman([-benefit] * 3, [benefit] * 3)
    assert found["mean"] == pytest.approx(1.0) and found["high"] == 1.0 and -1.0 <= found["low"] < 1.0
    alike = np.arange(8).repeat(5)
    noisy = [-benefit + rng.normal(0, 1, benefit.shape) for _ in range(3)]
    assert spearman(noisy, [benefit] * 3, alike)["low"] != spearman(noisy, [benefit] * 3)["low"]


def test_shares_carry_wilsons_interval():
    found = share(np.array([True] * 9 + [False]))
    assert found["share"] == 0.9 and found["cases"] == 10
    assert found["low"] == pytest.approx(0.5958, abs=1e-4) and found["high"] == pytest.approx(0.9821, abs=1e-4)
    assert np.isnan(share(np.empty(0, bool))["share"])
