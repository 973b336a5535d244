"""Pictures: frames as JPEG or PNG, for links that are too slow for raw ones. JPEG loses detail, PNG does not."""

from __future__ import annotations

import io
import math
from typing import Literal

import numpy as np
from PIL import Image

Encoding = Literal["jpeg", "png"]
MOST_JPEG_SIDE = 65500
"""Pixels of a JPEG's longer side."""
QUALITY = 90
"""Of JPEG, 1 (smallest) to 95 (best)."""
_FASTEST_PNG = 1  # zlib's level; better ones take many times as long for a few per cent


def encode_picture(pixels: np.ndarray, encoding: Encoding, quality: int = QUALITY) -> bytes:
    """`uint8[height, width, 3]` as a file's bytes; of `[n, height, width, 3]` one image, each picture below the one
    before. `quality` is for JPEG alone.
    """
    target = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels).reshape(-1, *pixels.shape[-2:]))
    if encoding == "jpeg":
        image.save(target, "JPEG", quality=quality)
    else:
        image.save(target, "PNG", compress_level=_FASTEST_PNG)
    return target.getvalue()


def decode_picture(data: bytes | memoryview, encoding: Encoding, shape: tuple[int, ...]) -> np.ndarray:
    """The picture in `data`, or the pictures one below the other, `uint8[shape]`. Raises `ValueError` unless it is an
    image of this encoding and shape.

    The size is looked at before anything is unpacked, so that few bytes cannot fill the memory.
    """
    tall = (math.prod(shape[:-2]), *shape[-2:])
    try:
        with Image.open(io.BytesIO(data), formats=(encoding,)) as image:
            found = (image.height, image.width, 3)
            if found != tall or image.mode != "RGB":
                raise ValueError(f"expected {list(tall)} RGB, got {list(found)} {image.mode}")
            return np.array(image).reshape(shape)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # what pillow raises on damaged files
        raise ValueError(f"not a {encoding.upper()}: {error}") from None
