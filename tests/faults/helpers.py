"""What the fault tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from dsa_runtime import WorldError, load_world
from tests.tiny_world import seal


def refuses(path: Path, *mentions: str) -> None:
    """Loading `path` is a `WorldError` whose message holds every one of `mentions`."""
    with pytest.raises(WorldError) as caught:
        load_world(path, threads=1)
    for mention in mentions:
        assert mention in str(caught.value)


def rewrite_model(package: Path, file: str, edit: Callable[[onnx.ModelProto], object]) -> None:
    """Change one graph of a package, and the hashes with it."""
    model = onnx.load(package / file, load_external_data=False)
    edit(model)
    (package / file).write_bytes(model.SerializeToString())
    seal(package)
