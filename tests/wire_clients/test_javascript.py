"""The client in JavaScript: zeromq and @msgpack/msgpack, from npm."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.wire_clients.contract import SOURCES, ClientContract
from tests.wire_clients.toolchain import require


class TestJavascript(ClientContract):
    @pytest.fixture(scope="class")
    @classmethod
    def command(cls, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
        require("node", "nodejs")
        require("npm", "npm")
        folder = tmp_path_factory.mktemp("javascript")
        for file in ("dsa_client.js", "package.json"):
            shutil.copy(SOURCES / "javascript" / file, folder)
        _install(folder)
        return ["node", str(folder / "dsa_client.js")]


def _install(folder: Path) -> None:
    # zeromq's package holds built libraries for the usual systems: nothing is compiled or fetched besides.
    command = ["npm", "install", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund"]
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    if found.returncode:
        pytest.skip("npm cannot install zeromq and @msgpack/msgpack")
