"""Picture metrics on batches of frames, one number per picture.

Every function takes two batches `uint8[B, H, W, 3]` (or `float[B, H, W, 3]` in [0, 1]), sRGB, and returns
`float64[B]`. Higher is better for PSNR and SSIM, lower for FLIP and LPIPS (`exporters/model/lpips.py`).
"""

from __future__ import annotations

import numpy as np
import torch
from pytorch_msssim import ssim as _ssim

from exporters.model.lpips import PictureDistance, as_float_pair

# Two identical pictures have no finite PSNR; they get this. The smallest difference of a 64x64 frame is 89 dB.
PSNR_CAP_DB = 100.0
SSIM_WINDOW = 7
# A 64-pixel picture is looked at enlarged. FLIP's default observer sees 67 pixels per degree; eight times
# enlargement leaves 67 / 8. Without this FLIP's contrast filter would blur away everything that differs.
FLIP_PIXELS_PER_DEGREE = 67.0 / 8.0


def psnr(reference: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB, at most `PSNR_CAP_DB`."""
    first, second = as_float_pair(reference, test)
    error = np.mean(np.square(first.astype(np.float64) - second), axis=(1, 2, 3))
    return np.asarray(-10.0 * np.log10(np.maximum(error, 10.0 ** (-PSNR_CAP_DB / 10.0))))


def ssim(reference: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Structural similarity, Gaussian window of 7 pixels (sigma 1.5), mean over the three colours."""
    first, second = as_float_pair(reference, test)
    if min(first.shape[1:3]) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs frames of at least {SSIM_WINDOW} pixels, got {first.shape[1]}x{first.shape[2]}")
    planes = [torch.from_numpy(np.ascontiguousarray(batch.transpose(0, 3, 1, 2))) for batch in (first, second)]
    with torch.no_grad():
        value = _ssim(*planes, data_range=1.0, size_average=False, win_size=SSIM_WINDOW, win_sigma=1.5)
    return np.asarray(value.double().numpy())


def flip(reference: np.ndarray, test: np.ndarray, *, pixels_per_degree: float = FLIP_PIXELS_PER_DEGREE) -> np.ndarray:
    """Mean LDR-FLIP error (NVIDIA's implementation), in [0, 1]. Needs the package `flip-evaluator`."""
    import flip_evaluator  # native library, only wanted by those who ask for FLIP

    if pixels_per_degree <= 0:
        raise ValueError(f"pixels_per_degree must be positive, got {pixels_per_degree}")
    first, second = as_float_pair(reference, test)
    parameters = {"ppd": float(pixels_per_degree)}
    means = [
        flip_evaluator.evaluate(real, other, "LDR", applyMagma=False, parameters=dict(parameters))[1]
        for real, other in zip(first, second, strict=True)
    ]
    return np.asarray(means, dtype=np.float64)


def compare(
    reference: np.ndarray, test: np.ndarray, *, lpips: PictureDistance | None = None, with_flip: bool = True
) -> dict[str, np.ndarray]:
    """All metrics at once: {"psnr_db", "ssim", "flip"?, "lpips"?} -> float64[B]."""
    result = {"psnr_db": psnr(reference, test), "ssim": ssim(reference, test)}
    if with_flip:
        result["flip"] = flip(reference, test)
    if lpips is not None:
        result["lpips"] = lpips.distance(reference, test)
    return result


def copy_last(context: np.ndarray, horizon: int) -> np.ndarray:
    """The baseline that every number stands beside: the newest context frame, repeated.

    context: [B, W, H, Wd, 3], newest last. Returns a read-only view [B, horizon, H, Wd, 3] of the same dtype.
    """
    if context.ndim != 5 or context.shape[1] < 1:
        raise ValueError(f"context must be [B, W, H, W, 3], got {list(context.shape)}")
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1, got {horizon}")
    last = context[:, -1:]
    return np.broadcast_to(last, (last.shape[0], horizon, *last.shape[2:]))


def change_quartile(previous: np.ndarray, current: np.ndarray) -> np.ndarray:
    """int64[B]: how hard each real frame is to guess, by its change from the frame before.

    0 = the quarter of the batch that changes least (easy), 3 = the quarter that changes most (hard). Ranked, so
    the quarters have equal size even when many frames do not change at all; ties keep the order of the batch.
    """
    likeness = psnr(previous, current)
    rank = np.empty(len(likeness), dtype=np.int64)
    rank[np.argsort(-likeness, kind="stable")] = np.arange(len(likeness))
    return np.asarray(rank * 4 // max(len(likeness), 1))
