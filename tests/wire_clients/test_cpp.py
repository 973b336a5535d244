"""The client in C++: cppzmq and msgpack-cxx."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.wire_clients.contract import SOURCES, ClientContract, play_across_a_kill
from tests.wire_clients.toolchain import require, require_headers

HEADERS = {"zmq.h": "libzmq3-dev", "zmq.hpp": "cppzmq-dev", "msgpack.hpp": "libmsgpack-cxx-dev"}
COMPILER = ["c++", "-std=c++17", "-DMSGPACK_NO_BOOST"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cpp")
    require("c++", "g++")
    require_headers(COMPILER, folder, HEADERS)
    return folder


def build(folder: Path, name: str, *flags: str) -> list[str]:
    program, source = str(folder / name), str(SOURCES / "cpp" / "dsa_client.cpp")
    warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    subprocess.run([*COMPILER, *flags, *warnings, source, "-o", program, "-lzmq"], check=True)
    return [program]


class TestCpp(ClientContract):
    @pytest.fixture(scope="class")
    @classmethod
    def command(cls, folder: Path) -> list[str]:
        return build(folder, "dsa_client", "-O1")

    @pytest.mark.slow
    def test_memory_is_used_well(self, folder: Path, tiny_package: Path, private: Path, tmp_path: Path) -> None:
        sanitized = build(folder, "sanitized", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover")

        for options in ([], ["--shm"]):
            found, _ = play_across_a_kill(sanitized, tiny_package, private, tmp_path, *options)
            assert found["ticks"] == 300
