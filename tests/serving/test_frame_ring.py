"""The ring of frames in shared memory: what is read is what was written, or nothing; and no file stays behind."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dsa_runtime.serving.frame_ring import FrameReader, FrameRing

SHAPE = (4, 5, 3)
BYTES = 60


def picture(value: int) -> np.ndarray:
    return np.random.default_rng(value).integers(0, 256, SHAPE, np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "rings"


def test_frames_arrive_whole_and_stay_until_all_other_slots_were_written(folder: Path) -> None:
    ring = FrameRing.create(folder, BYTES, 3)
    with FrameReader(ring.path, ring.token) as reader:
        places = [ring.write(picture(value)) for value in range(8)]
        for value, (slot, seq) in list(enumerate(places))[5:]:
            np.testing.assert_array_equal(reader.read(slot, seq, SHAPE), picture(value))
        for slot, seq in places[:5]:
            assert reader.read(slot, seq, SHAPE) is None
        assert [seq for _, seq in places] == list(range(1, 9))
    ring.close()


def test_what_is_read_is_a_copy(folder: Path) -> None:
    ring = FrameRing.create(folder, BYTES, 2)
    with FrameReader(ring.path, ring.token) as reader:
        slot, seq = ring.write(picture(1))
        kept = reader.read(slot, seq, SHAPE)
        for value in range(2, 5):
            ring.write(picture(value))
    ring.close()
    np.testing.assert_array_equal(kept, picture(1))


def test_a_frame_that_is_overwritten_while_it_is_read_is_not_taken(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = FrameRing.create(folder, BYTES, 2)
    slot, seq = ring.write(picture(1))
    with FrameReader(ring.path, ring.token) as reader:
        real, looked = np.frombuffer, 0

        def frombuffer(buffer: object, dtype: type, count: int, offset: int) -> np.ndarray:
            nonlocal looked
            looked += 1
            if looked == 2:  # the reader has looked at the label and is about to copy
                with monkeypatch.context() as undone:
                    undone.setattr(np, "frombuffer", real)
                    ring.write(picture(2))
                    ring.write(picture(3))
            return real(buffer, dtype, count, offset)  # type: ignore[call-overload, no-any-return]

        monkeypatch.setattr(np, "frombuffer", frombuffer)
        assert reader.read(slot, seq, SHAPE) is None
        assert looked == 2
    ring.close()


@pytest.mark.parametrize(
    ("slot", "seq", "shape"),
    [(9, 1, SHAPE), (-1, 1, SHAPE), (1, 2, SHAPE), (1, 0, SHAPE), (0, 0, SHAPE), (1, 1, (4, 5, 4))],
    ids=["no such slot", "negative slot", "not yet written", "never a number", "an empty slot", "another size"],
)
def test_places_that_hold_no_such_frame(folder: Path, slot: int, seq: int, shape: tuple[int, ...]) -> None:
    ring = FrameRing.create(folder, BYTES, 2)
    assert ring.write(picture(1)) == (1, 1)
    with FrameReader(ring.path, ring.token) as reader:
        assert reader.read(slot, seq, shape) is None
        assert reader.read(1, 1, SHAPE) is not None
    ring.close()


def test_the_layout_is_the_documented_one(folder: Path) -> None:
    """What readers in other languages are written to."""
    ring = FrameRing.create(folder, BYTES, 2)
    slot, seq = ring.write(picture(1))
    data = ring.path.read_bytes()
    assert data[:40] == struct.pack("<8sIIQQQ", b"DSARING\n", 1, 2, ring.token, 128, BYTES)
    assert len(data) == ring.bytes == 64 + 2 * 128
    start = 64 + slot * 128
    assert struct.unpack_from("<QQ", data, start) == (seq, BYTES)
    assert data[start + 64 : start + 64 + BYTES] == picture(1).tobytes()
    ring.close()


def test_folder_and_file_are_private_and_the_file_goes_with_the_ring(folder: Path) -> None:
    ring = FrameRing.create(folder, BYTES)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert ring.path.stat().st_mode & 0o777 == 0o600
    with FrameReader(ring.path, ring.token) as reader:
        slot, seq = ring.write(picture(1))
        ring.close()
        ring.close()
        assert list(folder.iterdir()) == []
        np.testing.assert_array_equal(reader.read(slot, seq, SHAPE), picture(1))


def test_a_folder_that_others_can_look_into_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(PermissionError, match="0700"):
        FrameRing.create(tmp_path, BYTES)
    private = tmp_path / "private"
    private.mkdir(0o700)
    link = tmp_path / "link"
    link.symlink_to(private)
    with pytest.raises(PermissionError, match="0700"):
        FrameRing.create(link, BYTES)
    assert list(private.iterdir()) == []


def test_bad_sizes_are_refused(folder: Path) -> None:
    for frame_bytes, slots in ((0, 2), (BYTES, 1)):
        with pytest.raises(ValueError, match="ring needs"):
            FrameRing.create(folder, frame_bytes, slots)
    ring = FrameRing.create(folder, BYTES, 2)
    with pytest.raises(ValueError, match="up to 60"):
        ring.write(np.zeros(BYTES + 1, np.uint8))
    assert ring.write(picture(1)) == (1, 1)  # as if it had not been tried
    ring.close()


def test_no_room_is_an_error_at_once_and_leaves_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int, content: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        FrameRing.create(folder, BYTES)
    assert list(folder.iterdir()) == []


def test_another_file_is_not_taken_for_the_ring(folder: Path) -> None:
    ring = FrameRing.create(folder, BYTES)
    with pytest.raises(ValueError, match="announced"):
        FrameReader(ring.path, ring.token ^ 1)
    with pytest.raises(FileNotFoundError):
        FrameReader(folder / "nothing", ring.token)
    whole = ring.path.read_bytes()
    for damaged in (b"", whole[:-1], b"x" + whole[1:], whole[:12] + b"\xff" + whole[13:]):
        other = folder / "other"
        other.write_bytes(damaged)
        with pytest.raises(ValueError, match="ring of frames"):
            FrameReader(other, ring.token)
    ring.close()


WRITER = """
import sys, numpy as np
from dsa_runtime.serving.frame_ring import FrameRing
ring = FrameRing.create(sys.argv[1], 60)
print(ring.path, ring.token, *ring.write(np.full(60, 7, np.uint8)), flush=True)
sys.stdin.read()
"""


def test_the_ring_of_a_killed_writer_is_removed_and_that_of_a_living_one_is_not(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        path, token, slot, seq = writer.stdout.readline().split()
        ring = FrameRing.create(folder, BYTES)
        assert {file.name for file in folder.iterdir()} == {Path(path).name, ring.path.name}
        with FrameReader(path, int(token)) as reader:  # in another process
            frame = reader.read(int(slot), int(seq), SHAPE)
        assert frame is not None and (frame == 7).all()
        writer.send_signal(signal.SIGKILL)
        writer.wait(30)
        assert Path(path).exists()
        other = FrameRing.create(folder, BYTES)
        assert {file.name for file in folder.iterdir()} == {ring.path.name, other.path.name}
    ring.close()
    other.close()
