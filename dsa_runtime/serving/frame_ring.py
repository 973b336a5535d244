"""FrameRing: frames in shared memory, for a reader on the same machine.

A plain file in a private folder, mapped by both sides. `multiprocessing.shared_memory` is left alone: before Python
3.13 a reader that exits takes the segment away with it. Only the place of a frame travels in a message, as a slot
and a sequence number. Layout, version 1; numbers are little-endian:

    offset  type      what
    0       8 bytes   "DSARING" and a line feed
    8       uint32    version, 1
    12      uint32    slots
    16      uint64    token: random, so that another ring under the same name is noticed
    24      uint64    stride: bytes from one slot to the next, a multiple of 64
    32      uint64    capacity: the most bytes of a frame
    40      24 bytes  0
    64      slots     slot i begins at 64 + i * stride:
            uint64    sequence number of the frame in the slot; 0 while it is being written, and before the first one
            uint64    bytes of the frame
            48 bytes  0
            frame     raw bytes, then padding

A reader copies the frame and takes it only if the slot's sequence number was the message's before and after the
copy. Sequence numbers start at 1 and grow by one per frame of the ring, so a slot is written again only after all
the others. That the reader sees the frame at all is seen to by the message, which is sent after it was written.

The writer holds a lock (`flock`) on the file as long as it lives. A file nobody holds is left over from a writer that
was killed; the next one that makes a ring in that folder removes it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import stat
import struct
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np

MAGIC = b"DSARING\n"
VERSION = 1
SLOTS = 4
_HEADER = struct.Struct("<8sIIQQQ")
_BLOCK = 64  # of the header, of a slot's header, and what frames are aligned to
_MOST_BYTES = 1 << 40
_SUFFIX = ".ring"


def shared_folder() -> Path:
    """Where rings are made if nothing else is said: a folder of this user in shared memory, which may not exist yet."""
    shared = Path("/dev/shm")
    base = shared if shared.is_dir() and os.access(shared, os.W_OK) else Path(tempfile.gettempdir())
    return base / f"dsa-runtime-{os.getuid()}"


class FrameRing:
    """The writing side: one writer, on one thread at a time. Close it; that removes the file."""

    def __init__(self, path: Path, file: int, token: int, frame_bytes: int, slots: int) -> None:
        """For `create`. Takes over the locked file."""
        self.path, self.token, self.frame_bytes, self.slots = path, token, frame_bytes, slots
        self._file = file
        self._stride = _stride(frame_bytes)
        self._map = mmap.mmap(file, 0)
        self._seq = 0

    @classmethod
    def create(cls, folder: str | os.PathLike[str] | None, frame_bytes: int, slots: int = SLOTS) -> FrameRing:
        """A ring of `slots` frames of up to `frame_bytes` each, in a file of mode 0600.

        folder   made with mode 0700 if it is missing; None for `shared_folder()`. Rings in it whose writers are dead
                 are removed

        Raises `OSError`: the folder is not private, or there is no room.
        """
        if frame_bytes < 1 or slots < 2 or slots * frame_bytes > _MOST_BYTES:
            raise ValueError(
                f"a ring needs frames of a byte or more and 2 slots or more, got {frame_bytes} and {slots}"
            )
        home = _private(shared_folder() if folder is None else Path(folder))
        _sweep(home)
        token = secrets.randbits(64)
        path, file = _locked(home)
        try:
            stride = _stride(frame_bytes)
            header = _HEADER.pack(MAGIC, VERSION, slots, token, stride, frame_bytes)
            # All of it is written now: a full disk is an error here and would be a SIGBUS in the middle of a frame.
            _write(file, header.ljust(_BLOCK + slots * stride, b"\0"))
            return cls(path, file, token, frame_bytes, slots)
        except BaseException:
            path.unlink(missing_ok=True)
            os.close(file)
            raise

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return _BLOCK + self.slots * self._stride

    def write(self, pixels: np.ndarray) -> tuple[int, int]:
        """Put a frame, any C-contiguous array of at most `frame_bytes`, into the next slot: (slot, seq)."""
        if pixels.nbytes > self.frame_bytes:
            raise ValueError(f"the ring's frames have up to {self.frame_bytes} bytes, got {pixels.nbytes}")
        self._seq += 1
        slot = self._seq % self.slots
        start = _BLOCK + slot * self._stride
        label = np.frombuffer(self._map, np.uint64, 2, start)  # an aligned store each, never half seen
        label[0] = 0
        label[1] = pixels.nbytes
        np.frombuffer(self._map, np.uint8, pixels.nbytes, start + _BLOCK)[:] = pixels.reshape(-1).view(np.uint8)
        label[0] = self._seq
        return slot, self._seq

    def close(self) -> None:
        """Remove the file. Idempotent. A reader that has it mapped may still read what was written."""
        if not self._map.closed:
            self._map.close()
            self.path.unlink(missing_ok=True)
            os.close(self._file)


class FrameReader:
    """The reading side. Close it, or use it in a `with` statement."""

    def __init__(self, path: str | os.PathLike[str], token: int) -> None:
        """Map the ring at `path`. Raises `OSError` where there is none, and `ValueError` if it is not the one with
        this token."""
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(file).st_size
            if size < _BLOCK:
                raise ValueError(f"{os.fspath(path)}: no ring of frames, it has {size} bytes")
            self._map = mmap.mmap(file, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(file)
        magic, version, self.slots, found, self._stride, self.frame_bytes = _HEADER.unpack_from(self._map)
        whole = self.slots >= 2 and self._stride == _stride(self.frame_bytes) and self.bytes == size
        if (magic, version, found) != (MAGIC, VERSION, token) or not whole:
            self._map.close()
            raise ValueError(f"{os.fspath(path)}: not the ring of frames that was announced")

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return int(_BLOCK + self.slots * self._stride)

    def read(self, slot: int, seq: int, shape: tuple[int, ...]) -> np.ndarray | None:
        """A copy of the frame, `uint8[shape]`; None if it is not, or no longer, in the slot."""
        if not 0 <= slot < self.slots:
            return None
        start = _BLOCK + slot * self._stride
        label = np.frombuffer(self._map, np.uint64, 2, start)
        count = int(np.prod(shape))
        if not seq or int(label[0]) != seq or int(label[1]) != count:
            return None
        frame = np.frombuffer(self._map, np.uint8, count, start + _BLOCK).reshape(shape).copy()
        return frame if int(label[0]) == seq else None

    def close(self) -> None:
        """Unmap it. Idempotent."""
        self._map.close()

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _stride(frame_bytes: int) -> int:
    return _BLOCK + -(-frame_bytes // _BLOCK) * _BLOCK


def _private(folder: Path) -> Path:
    """The folder, made if it is missing. Refuses one that others could have put there or can look into."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionError(f"{folder}: must be a folder of this user with mode 0700; remove it or name another")
    return folder


def _locked(folder: Path) -> tuple[Path, int]:
    """A new file that this process holds."""
    while True:
        path = folder / f"{secrets.token_hex(8)}{_SUFFIX}"
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file).st_nlink:
            return path, file
        os.close(file)  # another process has swept it away before it was held


def _sweep(folder: Path) -> None:
    """Remove the rings that nobody holds."""
    for path in folder.glob(f"*{_SUFFIX}"):
        with suppress(OSError):  # in use, or gone meanwhile
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(file)


def _write(file: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(file, rest) :]
