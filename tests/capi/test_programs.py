"""C programs linked with libdsa_runtime, which starts a Python of its own in them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dsa_runtime import load_world
from dsa_runtime.actions import ActionSpace, Box, Discrete, MultiBinary
from dsa_runtime.capi.build import NAME
from tests.capi.conftest import PROGRAMS, compile_program, run
from tests.play import play
from tests.tiny_world import DISCRETE, write_tiny_world

Program = Callable[[str], Path]

SPACES: dict[str, ActionSpace] = {
    "discrete": DISCRETE,
    "buttons": MultiBinary(3, ("left", "right", "fire")),
    "levers": Box((-1.0, 0.0), (1.0, 10.0), ("turn", "lift"), ("rad", "m")),
}


@pytest.mark.parametrize("name", ["misuse", "threads", "manners"])
def test_it_holds(program: Program, tiny_package: Path, name: str) -> None:
    """What it is that holds stands in the program."""
    assert run(program(name), tiny_package) == "ok\n"


@pytest.mark.parametrize("standard", ["c99", "c++17"])
def test_programs_may_be_of_another_standard(prefix: Path, tmp_path: Path, standard: str) -> None:
    source = tmp_path / ("start.cpp" if "+" in standard else "start.c")
    source.write_text((PROGRAMS / "start.c").read_text())
    assert run(compile_program(source, tmp_path / "start", prefix, standard=standard)) == "DSA_OK \n"


@pytest.mark.parametrize("space", SPACES)
def test_frames_are_those_of_python_bit_for_bit(program: Program, tmp_path: Path, space: str) -> None:
    package = write_tiny_world(tmp_path / "world", SPACES[space], name=f"tiny-{space}")
    actions = some_actions(SPACES[space], 11)
    given = np.asarray(actions, {"discrete": np.int32, "buttons": np.uint8, "levers": np.float32}[space]).tobytes()

    run(program("play"), package, tmp_path / "frames", 3, stdin=given)

    with load_world(package, threads=1) as world, world.session(7) as session:
        expected = play(session, actions, steps=3)
    found = np.fromfile(tmp_path / "frames", np.uint8).reshape(len(actions), 8, 8, 3)
    np.testing.assert_array_equal(found, expected)


def some_actions(space: ActionSpace, count: int) -> list[object]:
    rng = np.random.default_rng(1)
    if isinstance(space, Discrete):
        return list(rng.integers(0, space.n, count))
    if isinstance(space, MultiBinary):
        return list(rng.integers(0, 2, (count, space.n), np.uint8))
    return list(rng.uniform(space.low, space.high, (count, space.width)).astype(np.float32))


def test_a_host_of_plugins_may_hide_its_symbols_and_load_it_twice(
    program: Program, prefix: Path, tiny_package: Path
) -> None:
    assert run(program("plugin"), prefix / "lib" / NAME, tiny_package) == "ok\n"


def test_a_step_allocates_nothing_on_its_thread(program: Program, tiny_package: Path) -> None:
    counts = counted(run(program("count"), tiny_package, 1000, 0))
    assert counts["thread"] == 0
    assert counts["process"] > 0  # inference, on other threads: so the counter counts


@pytest.mark.slow
def test_memory_stays_flat(program: Program, tiny_package: Path) -> None:
    counts = counted(run(program("count"), tiny_package, 50_000, 2_000))
    assert counts["thread"] == 0
    assert counts["kb"] < 1024
    assert counts["sessions_kb"] < 1024


def counted(printed: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"(\w+)=(-?[\d.]+)", printed)}
