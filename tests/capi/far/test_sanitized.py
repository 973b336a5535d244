"""libdsa_client under sanitizers and valgrind. What is suppressed, and why, stands in valgrind.supp."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from dsa_runtime import World
from tests.capi import client
from tests.capi.conftest import PROGRAMS, need_sanitizer, run, run_in_valgrind
from tests.play import ACTIONS, play
from tests.wire_clients.serve import Fate, ServerProcess

SANITIZED = "-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"


def sanitized(folder: Path, name: str) -> Path:
    need_sanitizer(folder, tuple(SANITIZED.split()))
    return client.compile_program(PROGRAMS / f"{name}.c", folder / name, SANITIZED)


@pytest.mark.slow
class TestSanitized:
    """Under AddressSanitizer, LeakSanitizer and UndefinedBehaviorSanitizer."""

    @pytest.mark.parametrize("name", ["misuse", "threads"])
    def test_misuse_and_threads(self, server: ServerProcess, tmp_path: Path, name: str) -> None:
        assert run(sanitized(tmp_path, name), "tiny", DSA_SERVER=server.address) == "ok\n"

    def test_a_life(self, server: ServerProcess, tiny_world: World, tmp_path: Path) -> None:
        actions = np.asarray(ACTIONS, np.int32)
        run(
            sanitized(tmp_path, "play"),
            "tiny",
            tmp_path / "frames",
            3,
            stdin=actions.tobytes(),
            DSA_SERVER=server.address,
        )
        with tiny_world.session(7) as alone:
            expected = play(alone, steps=3)
        found = np.fromfile(tmp_path / "frames", np.uint8).reshape(len(ACTIONS), 8, 8, 3)
        np.testing.assert_array_equal(found, expected)

    def test_across_a_kill(self, tiny_package: Path, private: Path, tmp_path: Path) -> None:
        sanitized(tmp_path, "misuse")  # skips where that is not possible
        folder = client.built(SANITIZED)
        client.make(tmp_path, "examples", SANITIZED, LIBRARY=folder / client.NAME)
        address = f"ipc://{private}/dsa"
        command = [str(tmp_path / "control_loop"), "--fast", "--recover", "--ticks", "600"]
        with ServerProcess(address, [tiny_package], Fate(kill_at=250)) as first:
            loop = subprocess.Popen(
                command, env={**os.environ, "DSA_SERVER": address}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            first.wait_killed()
        with loop, ServerProcess(address, [tiny_package]):
            out, err = loop.communicate(timeout=120)
        assert loop.returncode == 0, err
        assert b"ticks=600" in out and b"made again" in err and b"Sanitizer" not in err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["misuse", "play", "threads"])
def test_valgrind(server: ServerProcess, tmp_path: Path, name: str) -> None:
    program = client.compile_program(PROGRAMS / f"{name}.c", tmp_path / name)
    given = ["tiny", *([tmp_path / "frames", 3] if name == "play" else [])]
    run_in_valgrind(program, *given, stdin=np.asarray(ACTIONS, np.int32).tobytes(), DSA_SERVER=server.address)
