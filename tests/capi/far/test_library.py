"""libdsa_client as a library: what it exports, what it allocates, what it withstands."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.capi import client
from tests.capi.conftest import PROGRAMS, run
from tests.wire_clients.serve import ServerProcess


class TestTheLibrary:
    def test_it_exports_the_header_and_brings_no_python(self) -> None:
        path = client.built() / client.NAME
        exported = subprocess.check_output(["nm", "-D", "--defined-only", str(path)], text=True)
        header = (client.SOURCES / "dsa_runtime.h").read_text()
        assert {line.split()[-1] for line in exported.splitlines()} == set(re.findall(r"\b(dsa_\w+)\(", _plain(header)))
        dynamic = subprocess.check_output(["readelf", "-d", str(path)], text=True)
        assert "libdsa_client.so.1" in re.findall(r"SONAME.*\[(.*)\]", dynamic)
        assert not re.search(r"NEEDED.*python", dynamic)

    def test_the_cmake_project_builds_it(self, tmp_path: Path) -> None:
        if shutil.which("cmake") is None:
            pytest.skip("no cmake (Debian: cmake)")
        subprocess.run(["cmake", "-S", str(client.SOURCES), "-B", str(tmp_path)], check=True, capture_output=True)
        subprocess.run(["cmake", "--build", str(tmp_path)], check=True, capture_output=True)
        assert (tmp_path / "libdsa_client.so.1").exists()

    @pytest.mark.parametrize("name", ["misuse", "threads", "manners"])
    def test_it_holds(self, server: ServerProcess, tmp_path: Path, name: str) -> None:
        """What it is that holds stands in the program."""
        program = client.compile_program(PROGRAMS / f"{name}.c", tmp_path / name)
        assert run(program, "tiny", DSA_SERVER=server.address) == "ok\n"

    def test_a_step_allocates_nothing_but_what_libzmq_does(self, server: ServerProcess, tmp_path: Path) -> None:
        counts = counted(server, tmp_path, 300, 0)
        assert (counts["dsa"], counts["msgpack"]) == (0, 0)

    @pytest.mark.slow
    def test_memory_stays_flat(self, server: ServerProcess, tmp_path: Path) -> None:
        counts = counted(server, tmp_path, 50_000, 2_000)
        assert counts["kb"] < 1024
        assert counts["sessions_kb"] < 1024


def _plain(header: str) -> str:
    without_comments = re.sub(r"/\*.*?\*/", "", header, flags=re.S)
    return re.sub(r"#define .*", "", without_comments)


def counted(server: ServerProcess, folder: Path, steps: int, sessions: int) -> dict[str, float]:
    program = client.compile_program(PROGRAMS / "client_count.c", folder / "count")
    printed = run(program, "tiny", steps, sessions, DSA_SERVER=server.address)
    return {name: float(value) for name, value in re.findall(r"(\w+)=(-?[\d.]+)", printed)}
