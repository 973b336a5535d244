"""Packages damaged at random: whatever happens, it is a world or a WorldError and nothing else."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsa_runtime import WorldError, WorldSpec, load_world
from tests.tiny_world import pack


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_byte_of_an_archive(tiny_package: Path, tmp_path: Path, seed: int) -> None:
    archive = pack(tiny_package, tmp_path / "tiny.dsaworld")
    rng = np.random.default_rng(seed)
    content = bytearray(archive.read_bytes())
    content[int(rng.integers(len(content)))] ^= int(rng.integers(1, 256))
    archive.write_bytes(content)
    with contextlib.suppress(WorldError):
        load_world(archive, threads=1).close()


def test_damaged_bytes_of_the_spec(package: Path) -> None:
    rng = np.random.default_rng(0)
    text = (package / "world.json").read_bytes()
    for _ in range(300):
        damaged = bytearray(text)
        for _ in range(int(rng.integers(1, 4))):
            damaged[int(rng.integers(len(damaged)))] = int(rng.integers(256))
        (package / "world.json").write_bytes(damaged)
        with contextlib.suppress(WorldError):
            load_world(package, threads=1).close()


@pytest.mark.parametrize("junk", [None, 1, "x", [], {}, [None], {"type": "Box"}, -1, 1e300, True, [[]], "../x"])
def test_any_field_may_hold_junk(package: Path, junk: Any) -> None:
    """Every value of the spec in turn is replaced; errors name the place."""
    original = json.loads((package / "world.json").read_text())

    def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        return [path] * bool(path) + [place for key, item in items for place in places(item, (*path, key))]

    for place in places(original):
        document = json.loads(json.dumps(original))
        target = document
        for key in place[:-1]:
            target = target[key]
        target[place[-1]] = junk
        try:
            WorldSpec.from_json(json.dumps(document))
        except WorldError as error:
            assert str(error).startswith("world.json")
