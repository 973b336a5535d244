"""Frames as JPEG and PNG, and bytes that are neither."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from dsa_runtime.serving.pictures import Encoding, decode_picture, encode_picture

SHAPE = (48, 64, 3)


def smooth() -> np.ndarray:
    rows, columns = np.mgrid[0:48, 0:64]
    return np.stack([rows * 5, columns * 4, rows + columns], axis=2).astype(np.uint8)


def noisy() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, SHAPE, np.uint8)


@pytest.mark.parametrize("picture", [smooth(), noisy()], ids=["smooth", "noise"])
def test_png_gives_the_same_pixels_back(picture: np.ndarray) -> None:
    found = decode_picture(encode_picture(picture, "png"), "png", SHAPE)
    np.testing.assert_array_equal(found, picture)
    assert found.flags.writeable


def test_jpeg_is_smaller_and_near_and_its_quality_decides_both() -> None:
    picture = smooth()
    coarse, fine = (encode_picture(picture, "jpeg", quality) for quality in (20, 95))
    assert len(coarse) < len(fine) < picture.nbytes
    errors = [
        np.abs(decode_picture(data, "jpeg", SHAPE).astype(int) - picture).mean() for data in (coarse, fine)
    ]  # fmt: skip
    assert errors[1] < errors[0] < 8
    assert errors[1] < 2


def test_a_view_with_strides_is_encoded_as_it_is_seen() -> None:
    turned = noisy()[::-1, ::-1]
    np.testing.assert_array_equal(decode_picture(encode_picture(turned, "png"), "png", SHAPE), turned)


@pytest.mark.parametrize("encoding", ["jpeg", "png"])
def test_bytes_that_are_no_such_picture_are_refused(encoding: Encoding) -> None:
    whole = encode_picture(smooth(), encoding)
    other = encode_picture(smooth(), "png" if encoding == "jpeg" else "jpeg")
    for data in (b"", b"nonsense", whole[:40], whole[: len(whole) // 2], other):
        with pytest.raises(ValueError, match="not a"):
            decode_picture(data, encoding, SHAPE)


@pytest.mark.parametrize("encoding", ["jpeg", "png"])
def test_another_size_is_refused(encoding: Encoding) -> None:
    with pytest.raises(ValueError, match=r"expected \[64, 48, 3\]"):
        decode_picture(encode_picture(smooth(), encoding), encoding, (64, 48, 3))


@pytest.mark.parametrize("size", [20_000, 4_000], ids=["beyond pillow's limit", "below it"])
def test_few_bytes_that_claim_to_be_a_huge_picture_are_refused_unread(size: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"never read")
    with pytest.raises(ValueError, match=r"expected|limit"):
        decode_picture(bomb, "png", SHAPE)
