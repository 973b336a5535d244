"""The client in Rust: zmq, serde and rmp-serde, from Debian's packages or from crates.io."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.wire_clients.contract import SOURCES, ClientContract
from tests.wire_clients.toolchain import require

DEBIAN = Path("/usr/share/cargo/registry")
PACKAGES = "librust-zmq-dev, librust-serde-dev, librust-serde-derive-dev, librust-rmp-serde-dev"

pytestmark = pytest.mark.slow  # the crates are built first


class TestRust(ClientContract):
    @pytest.fixture(scope="class")
    @classmethod
    def command(cls, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
        require("cargo", "cargo")
        folder = tmp_path_factory.mktemp("rust")
        for file in ("dsa_client.rs", "Cargo.toml"):
            shutil.copy(SOURCES / "rust" / file, folder)
        _fetch(folder)
        build = subprocess.run(["cargo", "build", "--offline"], cwd=folder, capture_output=True, text=True)
        assert build.returncode == 0 and "warning: " not in build.stderr, build.stderr
        return [str(folder / "target" / "debug" / "dsa_client")]


def _fetch(folder: Path) -> None:
    """Let the crates be found: Debian's packages where they are installed, otherwise crates.io."""
    if DEBIAN.is_dir():
        (folder / ".cargo").mkdir()
        source = f'[source.crates-io]\nreplace-with = "debian"\n\n[source.debian]\ndirectory = "{DEBIAN}"\n'
        (folder / ".cargo" / "config.toml").write_text(source)
    try:
        fetched = subprocess.run(["cargo", "fetch"], cwd=folder, capture_output=True, timeout=120).returncode == 0
    except subprocess.TimeoutExpired:
        fetched = False
    if not fetched:
        pytest.skip(f"no crates (Debian: {PACKAGES})")
