"""Pictures of any source as those of a dataset: RGB, box-averaged down to its size."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PIL import Image


def as_rgb(picture: Any, where: str) -> np.ndarray:
    """uint8[H, W, 3] of uint8 [H, W], [H, W, 1 | 3 | 4] or [1 | 3, H, W]; no alpha. ValueError names `where`."""
    array = np.asarray(picture)
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or array.dtype != np.uint8:
        raise ValueError(f"{where}: not a picture: {array.dtype}{list(array.shape)}, expected uint8[height, width, 3]")
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array[..., :3]


def shrink(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8[height, width, 3], box-averaged from uint8[H, W, 3]; the caller owns it."""
    if picture.shape[:2] == (height, width):
        return np.array(picture)
    return np.array(Image.fromarray(picture).resize((width, height), Image.Resampling.BOX))


def check_size(picture: np.ndarray, height: int, width: int, where: str) -> None:
    """Raise ValueError unless a picture is at least as large as those of the dataset."""
    high, wide = picture.shape[:2]
    if high < height or wide < width:
        fitting = f"--size {max(16, wide // 16 * 16)}x{max(16, high // 16 * 16)}"
        raise ValueError(f"{where}: pictures of {wide}x{high} are smaller than the frame, {width}x{height}; {fitting}")


def frame_of(picture: np.ndarray, height: int, width: int, fps: float) -> dict[str, Any]:
    """The `frame` object of a dataset shrunk from pictures of this shape: shown at the aspect that they had."""
    high, wide = picture.shape[:2]
    divisor = math.gcd(high, wide)
    return {
        "height": height,
        "width": width,
        "channels": 3,
        "fps": fps,
        "display_aspect": [wide // divisor, high // divisor],
    }
