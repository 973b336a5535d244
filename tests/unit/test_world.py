"""World: loading from a folder or an archive, sharing, action spaces of all kinds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsa_runtime import Box, BudgetError, Controller, MultiBinary, load_world
from dsa_runtime.package import open_package
from tests.stages import settle
from tests.tiny_world import SEEDS, WINDOW, pack, write_tiny_world


def first_frame(path: Path, action: Any = 1) -> np.ndarray:
    with load_world(path, threads=1) as world, world.session(1) as session:
        return session.step(action, steps=2).pixels


def test_folder_and_archive_play_the_same(tiny_package: Path, tmp_path: Path) -> None:
    archive = pack(tiny_package, tmp_path / "tiny.dsaworld")
    np.testing.assert_array_equal(first_frame(tiny_package), first_frame(archive))


def test_paths_may_be_strings_and_relative(tiny_package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_package.parent)
    np.testing.assert_array_equal(first_frame(tiny_package), first_frame(Path("tiny")))
    with load_world("./tiny", threads=1) as world:
        assert world.spec.name == "tiny"


def test_an_archive_is_unpacked_privately_and_cleaned_up(tiny_package: Path, tmp_path: Path) -> None:
    with open_package(pack(tiny_package, tmp_path / "tiny.dsaworld")) as package:
        folder = package.folder
        assert folder.stat().st_mode & 0o077 == 0
        assert {path.name for path in folder.iterdir()} == set(package.spec.files)
        assert package.source == tmp_path / "tiny.dsaworld"
    assert not folder.exists()


def test_a_collected_package_cleans_up_too(tiny_package: Path, tmp_path: Path) -> None:
    package = open_package(pack(tiny_package, tmp_path / "tiny.dsaworld"))
    folder = package.folder
    del package
    assert not folder.exists()


def test_closing_the_world_of_a_folder_leaves_the_folder(package: Path) -> None:
    load_world(package, threads=1).close()
    assert (package / "world.json").exists()


def test_sessions_share_graphs_by_number_of_threads(tiny_package: Path) -> None:
    with load_world(tiny_package, threads=1) as world:
        first, second, third = world.session(0), world.session(1), world.session(2, threads=2)
        assert first._runtime.engine is second._runtime.engine
        assert first._runtime.engine is not third._runtime.engine
        assert third._runtime.engine.threads == 2
        assert first._runtime.cache is third._runtime.cache
        for session in (first, second, third):
            session.close()


def test_contexts(tiny_package: Path) -> None:
    with load_world(tiny_package, threads=1) as world:
        assert world.contexts == SEEDS
        with world.session(1) as session:
            np.testing.assert_array_equal(session.reset(1), session.reset(1 + SEEDS))


@pytest.mark.parametrize(
    ("space", "actions"),
    [
        (MultiBinary(3, ("a", "b", "c")), ([0, 0, 0], [1, 0, 1])),
        (Box((-1.0, 0.0), (1.0, 4.0), ("x", "y"), ("m", "m")), ([0.0, 0.0], [0.5, 4.0])),
    ],
)
def test_other_action_spaces(tmp_path: Path, space: Any, actions: Any) -> None:
    folder = write_tiny_world(tmp_path / "other", space)
    first, second = (first_frame(folder, action) for action in actions)
    assert (first != second).any()


def test_a_sink_keeps_the_first_context_frame(tmp_path: Path) -> None:
    with (
        load_world(write_tiny_world(tmp_path / "sink", sink=1), threads=1) as world,
        world.session(0) as session,
    ):
        first = session._window.slots[0]
        for _ in range(3 * WINDOW):
            session.step(0)
        settle(session)
        assert session._window.slots[0] == first
        assert len(set(session._window.slots)) == WINDOW


def test_session_options_override_the_controller(tiny_package: Path) -> None:
    with load_world(tiny_package, threads=1) as world:
        with world.session(0, controller=Controller(threshold=0.9, guard_ms=3.0), threshold=0.1, max_steps=2) as s:
            assert s.controller == Controller(threshold=0.1, max_steps=2, guard_ms=3.0)
        with pytest.raises(BudgetError, match=r"^threshold: "):
            world.session(0, threshold=float("nan"))


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_bad_thread_counts(tiny_package: Path, threads: Any) -> None:
    with pytest.raises(BudgetError, match=r"^threads: "):
        load_world(tiny_package, threads=threads)


def test_telemetry_is_off() -> None:
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
