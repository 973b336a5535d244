"""The examples of bindings/c/, each built from its Makefile and run with either library."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from dsa_runtime import World
from dsa_runtime.capi.build import NAME, ToolsMissing
from tests.capi import client, library
from tests.chunk_world import write_chunk_world
from tests.wire_clients.serve import ServerProcess

PATIENCE_S = 120.0


@dataclass(frozen=True)
class Side:
    """One of the libraries, and how an example finds a world with it."""

    name: str
    path: Path
    world: str
    chunks: str
    """A world whose tick is several pictures, and that takes text."""
    environment: dict[str, str]


@pytest.fixture(scope="module", params=["libdsa_runtime", "libdsa_client"])
def side(
    request: pytest.FixtureRequest, tiny_package: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Side]:
    if (reason := client.missing()) is not None:
        pytest.skip(reason)
    chunks = write_chunk_world(tmp_path_factory.mktemp("worlds") / "chunks")
    if request.param == "libdsa_client":
        path = client.built() / client.NAME
        with ServerProcess("tcp://127.0.0.1:*", [tiny_package, chunks]) as server:
            yield Side(request.param, path, "tiny", "chunks", {"DSA_SERVER": server.address})
        return
    try:
        path = library.built() / "lib" / NAME
    except ToolsMissing as error:
        pytest.skip(str(error).splitlines()[0])
    yield Side(request.param, path, str(tiny_package), str(chunks), {"DSA_PYTHON": sys.executable})


@pytest.fixture(scope="module")
def examples(side: Side, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all but the game, which needs SDL."""
    folder = tmp_path_factory.mktemp("examples") / "build"
    client.make(folder, "examples", LIBRARY=side.path)
    return folder


def run(side: Side, program: Path, *arguments: object, **environment: str) -> str:
    hidden = ("PYTHONPATH", "PYTHONHOME")
    inherited = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        [str(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**inherited, **side.environment, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_control_loop(side: Side, examples: Path) -> None:
    printed = run(side, examples / "control_loop", "--world", side.world, "--ticks", 60, "--hz", 60)
    found = dict(re.findall(r"(\w+)=(\S+)", printed))
    assert (found["library"], found["ticks"]) == (side.name, "60")
    # On a busy machine some are late; each is one of the four.
    assert sum(int(found[status]) for status in ("ok", "late", "repeated", "skipped")) == 60


def test_a_host_of_plugins(side: Side, examples: Path) -> None:
    printed = run(side, examples / "plugin_host", side.path, side.world, 5)
    assert printed.startswith(f"{side.name}: tiny, tick ")


def test_c_plus_plus(side: Side, examples: Path) -> None:
    printed = run(side, examples / "hpp_example", "--world", side.world)
    assert "tick 7: " in printed and "at tick 9" in printed and "DSA_E_SESSION: " in printed
    printed = run(side, examples / "hpp_example", "--world", side.chunks)
    assert "tick 7: " in printed and "2 prompts, 4 pictures a tick" in printed


def test_an_error_is_said(side: Side, examples: Path) -> None:
    with pytest.raises(AssertionError, match="nowhere"):
        run(side, examples / "control_loop", "--world", "nowhere")


def test_a_game(side: Side, tiny_world: World, tmp_path: Path) -> None:
    if (reason := client.missing({"sdl2": "libsdl2-dev"})) is not None:
        pytest.skip(reason)
    client.make(tmp_path, "game", LIBRARY=side.path)
    picture = tmp_path / "picture.ppm"
    for world in (side.chunks, side.world):
        run(
            side,
            tmp_path / "sdl_game",
            *("--world", world, "--seed", 3, "--frames", 3, "--picture", picture),
            SDL_VIDEODRIVER="dummy",
            SDL_AUDIODRIVER="dummy",
        )
        content = picture.read_bytes()
        assert content.startswith(b"P6\n8 8\n255\n") and len(content) == 11 + 192
        shown = np.frombuffer(content[-192:], np.uint8)
        # The keyboard is not touched: action 0, three times. Busy machines may have taken fewer steps, or none in time.
        assert shown.std() > 0
    with tiny_world.session(4) as other:
        assert (other.step(0).pixels.ravel() != shown).any()


def test_the_ros_sketch_says_that_it_is_untested() -> None:
    text = (client.SOURCES / "examples" / "ros2_node.cpp.txt").read_text()
    assert text.startswith("// UNTESTED.")
