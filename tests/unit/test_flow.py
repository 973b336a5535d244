"""Noise levels, preconditioning, Muon and calibration arithmetic."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from exporters.model.flow import add_noise, euler_step, precondition, schedule_levels  # noqa: E402
from exporters.training.benefit import OWN, Benefits  # noqa: E402
from exporters.training.calibration import calibrate, delta_factors, mean_steps, reliability  # noqa: E402
from exporters.training.muon import orthogonalise  # noqa: E402


def test_the_papers_schedule() -> None:
    assert schedule_levels(4, 5.0) == pytest.approx((1.0, 0.9375, 0.83333, 0.625), abs=1e-4)


def test_preconditioning_gives_a_unit_variance_target_at_every_level() -> None:
    torch.manual_seed(0)
    clean, noise = torch.randn(2, 200_000)
    for value in (0.05, 0.3, 0.7, 1.0):
        level = torch.full_like(clean, value)
        skip, gain = precondition(level)
        target = (clean - skip * add_noise(clean, noise, level)) / gain
        assert target.std().item() == pytest.approx(1.0, abs=0.01)


def test_an_euler_step_with_the_true_frame_stays_on_the_path() -> None:
    torch.manual_seed(0)
    clean, noise = torch.randn(2, 3, 16, 4, 4)
    high, low = torch.tensor([1.0, 0.8, 0.5]), torch.tensor([0.7, 0.2, 0.0])
    stepped = euler_step(add_noise(clean, noise, high), clean, high, low)
    torch.testing.assert_close(stepped, add_noise(clean, noise, low), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(32, 96), (96, 32)])
def test_orthogonalise_brings_singular_values_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape) * 0.01))
    assert values.max() < 1.35 and values.min() > 0.4


def samples(seed: int, informed: bool) -> Benefits:
    """4,000 frames, 3 asked steps, whose benefit follows the logit or ignores it."""
    torch.manual_seed(seed)
    logit = torch.randn(4000, 3)
    cause = logit if informed else torch.randn(4000, 3)
    squared = torch.exp(-2.0 * cause + 0.5 * torch.randn(4000, 3)) * 1e-3
    return Benefits([], torch.zeros(4000, 3, 1), squared, {OWN: logit})


def test_calibration_holds_on_other_samples() -> None:
    table = calibrate(samples(0, True), target_steps=2.0)
    assert reliability(samples(1, True), table)["expected_calibration_error"] < 0.03
    rows = table["thresholds"]
    assert all(a["mean_steps"] <= b["mean_steps"] for a, b in itertools.pairwise(rows))
    chosen = next(r for r in rows if r["threshold"] == table["default_threshold"])
    assert chosen["mean_steps"] == pytest.approx(2.0, abs=0.15)


def worth(saved: list[float], left: list[float]) -> Benefits:
    """200 frames: what each next step saves in the mean, and the mean distance that is left; half were not compared."""
    frames = torch.rand(200, 1, generator=torch.Generator().manual_seed(3)) * 2
    frames[:100] /= frames[:100].mean()
    perceptual = torch.tensor([*saved, 0.0]).flip(0).cumsum(0).flip(0).expand(200, -1).clone()
    perceptual[100:] = torch.nan
    squared = (frames * torch.tensor(left) / 127.5).square()
    return Benefits([], torch.zeros(200, len(left), 1), squared, {OWN: -squared}, perceptual=perceptual)


@pytest.mark.parametrize(
    ("saved", "left", "factors"),
    [
        ([0.03, 0.01, 0.01], [4.0, 4.0, 2.0], [1.0, 3.0, 1.5]),
        ([0.01, 0.03], [4.0, 4.0], [1.0, 1 / 3]),
        ([0.03, 0.001], [4.0, 4.0], [1.0, 4.0]),  # clamped
        ([0.03, -0.01], [4.0, 4.0], [1.0, 4.0]),  # a step that does harm
        ([0.001, 0.03], [4.0, 4.0], [1.0, 0.25]),
        ([-0.01, 0.03], [4.0, 4.0], [1.0, 1.0]),  # nothing to compare with
    ],
)
def test_a_steps_delta_grows_as_what_a_grey_level_of_it_is_worth_falls(
    saved: list[float], left: list[float], factors: list[float]
) -> None:
    found = worth(saved, left)
    assert delta_factors(found) == pytest.approx(factors, rel=1e-4)
    table = calibrate(found, target_steps=1.5)
    assert table["delta_by_step"] == pytest.approx([factor * table["delta"] for factor in factors], rel=1e-4)
    assert table["delta_by_step"][0] == table["delta"]


def test_without_a_perceptual_distance_every_step_has_the_same_delta() -> None:
    assert delta_factors(samples(0, True)) is None and "delta_by_step" not in calibrate(samples(0, True), 2.0)


def test_each_steps_confidence_is_about_its_own_delta() -> None:
    """Twice the delta for steps 2 and 3: their probabilities hold for that, and not for the first one's."""
    seen, others = samples(0, True), samples(1, True)
    for some in (seen, others):
        left = some.rms.mean(dim=0)
        saved = left / left[0] * torch.tensor([0.02, 0.01, 0.01])
        some.perceptual = torch.cat([saved, torch.zeros(1)]).flip(0).cumsum(0).flip(0).expand(4000, -1)
    table = calibrate(seen, target_steps=2.0)
    assert table["delta_by_step"] == pytest.approx([table["delta"] * factor for factor in (1, 2, 2)], rel=1e-4)
    assert reliability(others, table)["expected_calibration_error"] < 0.03
    del table["delta_by_step"]
    assert reliability(others, table)["expected_calibration_error"] > 0.1


def test_a_head_that_knows_nothing_gets_a_flat_curve() -> None:
    curve = calibrate(samples(0, False), target_steps=2.0)["within_delta"][0]["value"]
    middle = np.interp(np.linspace(0.2, 0.8, 9), np.linspace(0, 1, len(curve)), curve)
    assert np.ptp(middle) < 0.1


def test_nothing_is_ever_certain_so_that_threshold_one_is_the_full_schedule() -> None:
    sure = samples(0, True)
    sure.squared[:, 2] = 0.0  # the last step always changes nothing
    table = calibrate(sure, target_steps=2.0)
    assert max(max(curve["value"]) for curve in table["within_delta"]) < 1.0
    assert min(table["within_delta"][2]["value"]) > 0.999
    assert table["thresholds"][-1] == {"threshold": 1.0, "mean_steps": 4.0}


def test_mean_steps_counts_the_first_step_that_reaches_the_threshold() -> None:
    confidence = np.array([[0.9, 0.1], [0.2, 0.9], [0.2, 0.3]])
    assert mean_steps(confidence, 0.8) == pytest.approx((1 + 2 + 3) / 3)
