"""The one external-data file that all graphs of a package share."""

from __future__ import annotations

import hashlib
from pathlib import Path

ALIGNMENT = 4096
"""Bytes. A page, as the ONNX specification asks for, so that a reader can map every tensor by itself."""


class WeightsFile:
    """Collects tensors' bytes; equal bytes are stored once, whichever graph they come from."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._content = bytearray()
        self._offsets: dict[bytes, int] = {}

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
