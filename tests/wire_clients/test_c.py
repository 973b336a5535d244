"""The client in C: libzmq and msgpack-c."""

from __future__ import annotations

import subprocess
from ctypes.util import find_library
from pathlib import Path

import pytest

from tests.wire_clients.contract import SOURCES, ClientContract, play_across_a_kill
from tests.wire_clients.toolchain import require, require_headers

HEADERS = {"zmq.h": "libzmq3-dev", "msgpack.h": "libmsgpack-dev"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("c")
    require("cc", "gcc")
    require_headers(["cc", "-xc"], folder, HEADERS)
    return folder


def build(folder: Path, name: str, *flags: str) -> list[str]:
    program, source = str(folder / name), str(SOURCES / "c" / "dsa_client.c")
    warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    libraries = ["-lzmq", "-lmsgpack-c" if find_library("msgpack-c") else "-lmsgpackc"]  # renamed in its release 6.0
    subprocess.run(["cc", "-std=c11", *flags, *warnings, source, "-o", program, *libraries], check=True)
    return [program]


class TestC(ClientContract):
    @pytest.fixture(scope="class")
    @classmethod
    def command(cls, folder: Path) -> list[str]:
        return build(folder, "dsa_client", "-O2")

    def test_memory_is_used_well(self, folder: Path, tiny_package: Path, private: Path, tmp_path: Path) -> None:
        sanitized = build(folder, "sanitized", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover")

        for options in ([], ["--shm"]):
            found, _ = play_across_a_kill(sanitized, tiny_package, private, tmp_path, *options)
            assert found["ticks"] == 300
