"""Picture metrics against values worked out by hand, and their behaviour where those are not known."""

import itertools

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pytorch_msssim")

from exporters.evaluation.metrics import (
    PSNR_CAP_DB,
    change_quartile,
    compare,
    copy_last,
    flip,
    psnr,
    ssim,
)


def pictures(count=3, size=64, seed=0):
    """Smooth coloured pictures with an edge: more like a game than noise is."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size
    waves = [
        np.sin(2 * np.pi * (rng.uniform(0.5, 3) * x + rng.uniform(0.5, 3) * y + p))
        for p in rng.random((count, 3)).ravel()
    ]
    batch = (np.stack(waves).reshape(count, 3, size, size).transpose(0, 2, 3, 1) + 1.0) * 100.0
    batch[:, size // 2 :, : size // 3] *= 0.3
    return batch.astype(np.uint8)


def noisy(batch, sigma, seed=1):
    noise = np.random.default_rng(seed).normal(0.0, sigma, batch.shape)
    return np.clip(np.rint(batch + noise), 0, 255).astype(np.uint8)


def test_psnr_of_a_constant_difference():
    dark = np.full((2, 8, 8, 3), 100, dtype=np.uint8)
    # A difference of 51 levels is 0.2 of full scale: 10 log10(1 / 0.04).
    np.testing.assert_allclose(psnr(dark, dark + np.uint8(51)), 13.9794, atol=1e-4)
    np.testing.assert_array_equal(psnr(dark, dark), PSNR_CAP_DB)


def test_psnr_is_per_picture():
    dark = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    light = dark.copy()
    light[1] = 255
    np.testing.assert_allclose(psnr(dark, light), [PSNR_CAP_DB, 0.0], atol=1e-6)


def test_ssim_of_constant_pictures():
    # Without structure only the luminance term is left: (2ab + c) / (a^2 + b^2 + c), c = 0.01^2.
    first, second = (np.full((1, 16, 16, 3), value, dtype=np.float32) for value in (0.2, 0.6))
    expected = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    np.testing.assert_allclose(ssim(first, second), expected, atol=1e-4)


def test_bytes_and_floats_agree():
    first = pictures()
    second = noisy(first, 8.0)
    for metric in (psnr, ssim):
        floats = metric(first.astype(np.float64) / 255.0, second.astype(np.float32) / 255.0)
        np.testing.assert_allclose(metric(first, second), floats, rtol=1e-4)


def test_flip_of_black_and_white_is_near_its_maximum():
    pytest.importorskip("flip_evaluator")
    black = np.zeros((1, 64, 64, 3), dtype=np.uint8)
    assert flip(black, black)[0] == 0.0
    assert flip(black, black + np.uint8(255))[0] > 0.9


def test_every_metric_gets_worse_with_noise():
    pytest.importorskip("flip_evaluator")
    batch = pictures()
    values = [compare(batch, noisy(batch, sigma)) for sigma in (0.0, 2.0, 6.0, 18.0, 54.0)]
    assert values[0]["ssim"] == pytest.approx(1.0) and values[0]["flip"] == pytest.approx(0.0)
    for better, worse in itertools.pairwise(values):
        assert (better["psnr_db"] > worse["psnr_db"]).all()
        assert (better["ssim"] > worse["ssim"]).all()
        assert (better["flip"] < worse["flip"]).all()


def test_flip_sees_more_when_the_picture_is_enlarged():
    pytest.importorskip("flip_evaluator")
    batch = pictures()
    assert (flip(batch, noisy(batch, 6.0)) > flip(batch, noisy(batch, 6.0), pixels_per_degree=67.0)).all()
    with pytest.raises(ValueError, match="pixels_per_degree"):
        flip(batch, batch, pixels_per_degree=0.0)


def test_copy_last_repeats_the_newest_frame():
    context = np.stack([pictures(4, seed=seed) for seed in range(2)])
    guess = copy_last(context, 3)
    assert guess.shape == (2, 3, 64, 64, 3) and guess.dtype == np.uint8
    for step in range(3):
        np.testing.assert_array_equal(guess[:, step], context[:, 3])
    with pytest.raises(ValueError, match="horizon"):
        copy_last(context, 0)
    with pytest.raises(ValueError, match="context"):
        copy_last(context[0], 1)


def test_change_quartiles_are_equal_and_ordered():
    previous = np.repeat(pictures(1), 8, axis=0)
    sigmas = np.array([0.0, 40.0, 0.0, 5.0, 10.0, 20.0, 2.0, 80.0])
    current = np.concatenate([noisy(previous[:1], sigma) for sigma in sigmas])
    assert change_quartile(previous, current).tolist() == [0, 3, 0, 1, 2, 2, 1, 3]
    assert change_quartile(previous[:0], current[:0]).tolist() == []


BAD = {
    "shapes": (np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 8, 9, 3), np.uint8), "shapes differ"),
    "no batch": (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8), r"must be \[B, H, W, 3\]"),
    "integers": (np.zeros((1, 8, 8, 3), np.int64), np.zeros((1, 8, 8, 3), np.int64), "uint8 or float"),
    "range": (np.full((1, 8, 8, 3), 200.0), np.zeros((1, 8, 8, 3)), r"must lie in \[0, 1\]"),
    "NaN": (np.zeros((1, 8, 8, 3)), np.full((1, 8, 8, 3), np.nan), "test holds NaN"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_frames_are_refused(case):
    first, second, message = BAD[case]
    for metric in (psnr, ssim, flip):
        with pytest.raises(ValueError, match=message):
            metric(first, second)


def test_ssim_refuses_pictures_below_its_window():
    tiny = np.zeros((1, 5, 64, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="at least 7"):
        ssim(tiny, tiny)
