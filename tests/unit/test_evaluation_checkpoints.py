"""The change of the response between checkpoints: what its interval holds, and how often."""

import numpy as np
import pytest

pytest.importorskip("torch")

from scipy.stats import ttest_1samp

from exporters.evaluation.drift.checkpoints import Moments, difference


def test_the_difference_between_checkpoints_is_in_points_with_an_interval():
    rng = np.random.default_rng(0)
    first, later = (Moments((rng.random(800) < p).astype(float), np.arange(800) % 2) for p in (0.9, 0.8))
    found = difference(first, later)
    assert found["low"] < found["points"] < found["high"] < 0
    assert found["points"] == pytest.approx(-10, abs=4)
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * 100 * np.sqrt((0.09 + 0.16) / 800), rel=0.2)
    full = Moments(np.ones(300), np.arange(300) % 2)
    found = difference(full, full)  # of full marks one cannot be surer than of 300 hits in 300
    assert found["points"] == 0.0 and found["low"] == pytest.approx(-1.26, abs=0.1) == -found["high"]
    assert difference(first, Moments(np.empty(0), np.empty(0, int))) is None


def test_a_change_over_three_sessions_is_students_and_paired():
    rng, sessions = np.random.default_rng(1), np.arange(3).repeat(60)

    def drawn(shares):
        return Moments((rng.random(180) < np.repeat(shares, 60)).astype(float), sessions)

    first, later = drawn([0.9, 0.9, 0.9]), drawn([0.9, 0.9, 0.2])  # one of three has stopped obeying
    found = difference(first, later)
    before, after = (np.array(list(one.by_session().values())) for one in (first, later))
    interval = ttest_1samp(100 * (after - before), 0).confidence_interval()
    assert [found["low"], found["high"]] == pytest.approx([interval.low, interval.high])
    assert found["low"] < 0 < found["high"] and found["sessions"] == 3
    pair = [Moments(one.shares[:120], np.arange(2).repeat(60)) for one in (first, later)]
    assert difference(*pair)["high"] - difference(*pair)["low"] < 30  # of two, of these sessions alone
    full = Moments(np.ones(180), sessions)
    found = difference(full, full)
    assert found["points"] == 0.0 and -found["low"] == found["high"] > 2.0


def test_sessions_that_differ_by_chance_are_no_change():
    rng, held = np.random.default_rng(2), 0
    for _ in range(300):
        levels = np.clip(0.9 + rng.normal(0, 0.05, (2, 3)), 0, 1).repeat(64, axis=1)
        found = difference(*(Moments(rng.binomial(3, one) / 3, np.arange(3).repeat(64)) for one in levels))
        held += found["low"] <= 0 <= found["high"]
    assert held >= 0.93 * 300
