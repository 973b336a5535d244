"""The one external-data file that all graphs of a package share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

ALIGNMENT = 4096
"""Bytes. A page, as the ONNX specification asks for, so that a reader can map every tensor by itself."""


class WeightsFile:
    """Collects tensors' bytes; equal bytes are stored once, whichever graph they come from."""

    def __init__(self, name: str, content: bytes = b"", spans: Iterable[tuple[int, int]] = ()) -> None:
        """`content` is what an older file of that name holds, `spans` offset and length of its tensors, to be shared
        and added to.
        """
        self.name = name
        self._content = bytearray(content)
        self._offsets = {hashlib.sha256(content[at : at + length]).digest(): at for at, length in spans}

    def __len__(self) -> int:
        """Bytes so far."""
        return len(self._content)

    def add(self, content: bytes) -> int:
        """The offset of `content` in the file, a multiple of `ALIGNMENT`."""
        digest = hashlib.sha256(content).digest()
        if digest not in self._offsets:
            self._content += bytes(-len(self._content) % ALIGNMENT)
            self._offsets[digest] = len(self._content)
            self._content += content
        return self._offsets[digest]

    def write(self, folder: Path) -> None:
        """Write the file into `folder`."""
        (folder / self.name).write_bytes(self._content)
