"""LPIPS: the port's arithmetic, the guarded unpickler, and the real weights where they are cached."""

import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pytorch_msssim")

from exporters.model import lpips as module  # noqa: E402
from exporters.model.lpips import Lpips, LpipsUnavailable, flatten, unpickle_arrays  # noqa: E402

_SHAPES = ((11, 11, 3, 64), (5, 5, 64, 192), (3, 3, 192, 384), (3, 3, 384, 256), (3, 3, 256, 256))


def toy_weights(seed=0):
    rng = np.random.default_rng(seed)
    weights = {}
    for layer, shape in enumerate(_SHAPES):
        fan_in = shape[0] * shape[1] * shape[2]
        weights[f"AlexNet_0/Conv_{layer}/kernel"] = rng.normal(0, fan_in**-0.5, shape).astype(np.float32)
        weights[f"AlexNet_0/Conv_{layer}/bias"] = rng.normal(0, 0.1, shape[3]).astype(np.float32)
        weights[f"NetLinLayer_{layer}/Conv_0/kernel"] = rng.random((1, 1, shape[3], 1)).astype(np.float32)
    return weights


def random_pictures(count, seed):
    return np.random.default_rng(seed).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)


def test_first_layer_agrees_with_a_direct_computation():
    weights = toy_weights()
    for layer in range(1, 5):
        weights[f"NetLinLayer_{layer}/Conv_0/kernel"][:] = 0.0
    pair = [random_pictures(1, seed) for seed in (1, 2)]

    def features(picture):
        scaled = (picture[0] / 127.5 - 1.0 - np.array([-0.030, -0.088, -0.188])) / np.array([0.458, 0.448, 0.450])
        padded = np.pad(scaled, ((2, 2), (2, 2), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (11, 11), axis=(0, 1))[::4, ::4]
        value = np.einsum("yxcij,ijco->yxo", windows, weights["AlexNet_0/Conv_0/kernel"])
        value = np.maximum(value + weights["AlexNet_0/Conv_0/bias"], 0.0)
        return value / np.sqrt((value**2).sum(axis=-1, keepdims=True))

    difference = (features(pair[0]) - features(pair[1])) ** 2
    expected = (difference @ weights["NetLinLayer_0/Conv_0/kernel"][0, 0]).mean()
    np.testing.assert_allclose(Lpips(weights).distance(*pair), expected, rtol=1e-4)


def test_distance_is_zero_for_equal_symmetric_and_independent_of_batching():
    metric = Lpips(toy_weights())
    first, second = random_pictures(5, 1), random_pictures(5, 2)
    np.testing.assert_array_equal(metric.distance(first, first), 0.0)
    forward = metric.distance(first, second)
    assert (forward > 0).all()
    np.testing.assert_allclose(metric.distance(second, first), forward, rtol=1e-5)
    np.testing.assert_allclose(metric.distance(first, second, batch=2), forward, rtol=1e-5)
    assert metric.distance(first[:0], second[:0]).shape == (0,)
    with pytest.raises(ValueError, match="at least 31"):
        metric.distance(first[:, :16], second[:, :16])


def test_arrays_survive_the_unpickler():
    tree = {"a": {"b": np.arange(6, dtype=np.float32).reshape(2, 3)}, "c": np.float32([1.0])}
    flat = flatten(unpickle_arrays(pickle.dumps(tree)))
    assert set(flat) == {"a/b", "c"}
    np.testing.assert_array_equal(flat["a/b"], tree["a"]["b"])


@pytest.mark.parametrize("value", [print, np.load, pickle.loads, pytest.raises, {"a": np.random.default_rng}])
def test_everything_but_arrays_is_refused_by_the_unpickler(value):
    with pytest.raises(pickle.UnpicklingError, match="no numpy array"):
        unpickle_arrays(pickle.dumps(value))


def test_without_cache_and_download_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(LpipsUnavailable, match=r"python -m exporters\.model\.lpips"):
        Lpips.load(download=False)


def test_a_failed_download_is_an_lpips_error(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module.sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(LpipsUnavailable, match="could not download"):
        Lpips.load()
    assert not list(tmp_path.rglob("*.npz"))


def test_real_weights_give_the_values_measured_when_the_port_was_checked():
    try:
        metric = Lpips.load(download=False)
    except LpipsUnavailable as reason:
        pytest.skip(str(reason))
    grey = np.full((4, 64, 64, 3), 128, dtype=np.uint8)
    noise = [np.random.default_rng(7).normal(0.0, sigma, grey.shape[1:]) for sigma in (2.0, 8.0, 24.0, 72.0)]
    noisy = np.clip(np.rint(grey + np.stack(noise)), 0, 255).astype(np.uint8)
    values = metric.distance(grey, noisy)
    assert (np.diff(values) > 0).all()
    np.testing.assert_allclose(values, MEASURED, rtol=1e-3)


# Taken with the port that gives 0.7219 and 0.1376 for the two example pairs of the LPIPS repository.
MEASURED = (0.0986383, 0.5113744, 0.8579377, 1.1538960)


def test_its_gradients_lead_to_the_reference_also_from_where_no_feature_is_active():
    metric = Lpips(toy_weights())
    reference = torch.from_numpy(random_pictures(2, 1)).movedim(-1, -3).float() / 127.5 - 1.0
    black = toy_weights()
    for layer in range(5):
        black[f"AlexNet_0/Conv_{layer}/bias"][:] = -100.0  # no feature is active anywhere
    silent = torch.zeros_like(reference, requires_grad=True)
    Lpips(black).between(silent, reference).sum().backward()
    assert torch.isfinite(silent.grad).all()
    picture = torch.zeros_like(reference, requires_grad=True)
    before = metric.between(picture, reference)
    before.sum().backward()
    nearer = metric.between(picture - 0.1 * picture.grad / picture.grad.abs().max(), reference)
    assert (nearer < before).all()
