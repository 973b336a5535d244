"""Worlds whose tick is a chunk of pictures, with a prompt: what the header says of them, in either library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsa_runtime import World, load_world
from dsa_runtime.capi.build import NAME, ToolsMissing
from tests.capi import client
from tests.capi.library import CWorld, Library, built
from tests.chunk_world import PICTURES, PROMPTS, TEXT_TOKENS, TEXT_WIDTH, write_chunk_world
from tests.serving.lives import Lives

E_BUFFER, E_PROMPT = -5, -22
PICTURE = 8 * 8 * 3
GUARD = 8


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chunk_world(tmp_path_factory.mktemp("worlds") / "chunks", begins_with=0)


@pytest.fixture(scope="module")
def loaded(package: Path) -> Iterator[World]:
    with load_world(package, threads=1) as world:
        yield world


@pytest.fixture(params=["runtime", "client"])
def world(request: pytest.FixtureRequest, package: Path, loaded: World, tmp_path: Path) -> Iterator[CWorld]:
    """The world behind either library."""
    if request.param == "client":
        client.library()
        with Lives(loaded, tmp_path) as lives, client.ClientWorld(loaded.spec, lives.server.address) as far:
            yield far
        return
    try:
        library = Library(built() / "lib" / NAME)
    except ToolsMissing as error:
        pytest.skip(str(error).splitlines()[0])
    with closing(CWorld(library, package, loaded.spec)) as near:
        yield near


def test_the_spec_says_what_a_step_writes_and_which_prompts_there_are(world: CWorld) -> None:
    library = world._library
    spec = library.struct("spec")
    library.call("world_spec", world._world[0], spec)
    assert (spec.frames_per_tick, spec.frame_bytes, spec.tick_bytes) == (PICTURES, PICTURE, PICTURES * PICTURE)
    assert (spec.fps, spec.period_us) == (16.0, 250_000)
    assert (spec.text_width, spec.text_tokens, spec.prompt_count) == (TEXT_WIDTH, TEXT_TOKENS, len(PROMPTS))
    assert tuple(library.ffi.string(spec.prompts[i]).decode() for i in range(len(PROMPTS))) == PROMPTS


def test_a_step_wants_room_for_all_pictures_and_a_move_for_one(world: CWorld) -> None:
    library = world._library
    lib, null = library.lib, library.ffi.NULL
    with world.session(7) as session:

        def step(pixels: np.ndarray, given: int) -> int:
            place = library.ffi.from_buffer("uint8_t[]", pixels, require_writable=True)
            return int(lib.dsa_session_step_exactly(session._handle, b"\1\0\0\0", 4, 2, 2**64 - 1, place, given, null))

        pixels = np.full(PICTURES * PICTURE + GUARD, 77, np.uint8)
        for too_small in (PICTURE, PICTURES * PICTURE - 1):
            assert step(pixels, too_small) == E_BUFFER
            assert str(PICTURES * PICTURE) in library.ffi.string(lib.dsa_last_error()).decode()
        assert session.tick == 0 and (pixels == 77).all()
        assert step(pixels, len(pixels)) == 0
        assert (pixels[-GUARD:] == 77).all() and (pixels[:-GUARD] != 77).any()
        newest = pixels[:-GUARD].reshape(PICTURES, 8, 8, 3)[-1]
        np.testing.assert_array_equal(session.rewind(0), newest)  # into room for one picture
        assert lib.dsa_session_step(session._handle, b"\1\0\0\0", 4, 0, null, 0, null) >= 0


def test_snapshots_grow_with_the_window_of_a_world_that_begins_with_nothing(world: CWorld) -> None:
    with world.session(7) as session:
        session.step(1)
        first = session.snapshot()
        session.step(1)
        later = session.snapshot()
        assert len(later) > len(first)
        needed, buffer = session._library.ffi.new("size_t *"), bytearray(len(first))
        place = session._library.ffi.from_buffer("uint8_t[]", buffer, require_writable=True)
        status = session._library.lib.dsa_session_snapshot(session._handle, place, len(first), needed)
        assert (status, needed[0]) == (E_BUFFER, len(later))


@pytest.mark.parametrize(("rows", "tokens"), [(TEXT_TOKENS, TEXT_TOKENS + 1), (1, 2**32 - 1), (1, 0)])
def test_no_more_embeddings_are_read_than_the_world_takes(world: CWorld, rows: int, tokens: int) -> None:
    with world.session(7) as session:
        values: Any = session._library.ffi.new("float[]", rows * TEXT_WIDTH)
        assert session._library.lib.dsa_session_set_text(session._handle, values, tokens) == E_PROMPT
