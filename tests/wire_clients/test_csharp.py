"""The client in C#: P/Invoke on libzmq."""

from __future__ import annotations

import ctypes.util
import os
import subprocess

import pytest

from tests.wire_clients.contract import SOURCES, ClientContract
from tests.wire_clients.toolchain import require


class TestCsharp(ClientContract):
    @pytest.fixture(scope="class")
    @classmethod
    def command(cls, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
        require("mcs", "mono-mcs")
        require("mono", "mono-runtime")
        if not _has_libzmq():
            pytest.skip("no libzmq.so (Debian: libzmq3-dev)")
        program = str(tmp_path_factory.mktemp("csharp") / "DsaClient.exe")
        source = str(SOURCES / "csharp" / "DsaClient.cs")
        subprocess.run(["mcs", "-optimize", "-langversion:7", "-warnaserror", source, f"-out:{program}"], check=True)
        return ["mono", program]


def _has_libzmq() -> bool:
    """Mono looks for the name without a version, which comes with the headers."""
    found = ctypes.util.find_library("zmq")
    try:
        ctypes.CDLL("libzmq.so")
    except OSError:
        return False
    return found is not None or os.name != "posix"
