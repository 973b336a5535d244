"""Fixtures shared by all tests, and what pytest is told about this project."""

from __future__ import annotations

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before anything imports onnxruntime
# Before anything imports torch: its threads spin at barriers, which beside one other busy process costs tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsa_runtime import World, load_world
from tests.tiny_world import write_tiny_world


@pytest.fixture(scope="session")
def tiny_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny world package that tests only read."""
    return write_tiny_world(tmp_path_factory.mktemp("worlds") / "tiny")


@pytest.fixture(scope="session")
def tiny_world(tiny_package: Path) -> Iterator[World]:
    """The tiny world, loaded once."""
    with load_world(tiny_package, threads=1) as world:
        yield world


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A tiny world package that the test may damage."""
    return write_tiny_world(tmp_path / "tiny")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than some ten seconds; runs only with --slow")
    config.addinivalue_line("markers", "gpu: needs an NVIDIA GPU and onnxruntime-gpu")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reasons = {}
    if not config.getoption("--slow"):
        reasons["slow"] = "slow: run it with --slow"
    if not _has_gpu():
        reasons["gpu"] = "needs an NVIDIA GPU and onnxruntime-gpu"
    for item in items:
        for marker, reason in reasons.items():
            if marker in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say aloud what was not run and why: a green run with silent gaps is not a green run."""
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        where, _, reason = report.longrepr
        named = f"{Path(where).name}: " if not report.nodeid.partition("::")[1] else ""  # a whole file
        reasons[named + reason.removeprefix("Skipped: ")] += 1
    if reasons:
        terminalreporter.section("not run")
        for reason, count in reasons.most_common():
            terminalreporter.line(f"{count:5}  {reason}")


def _has_gpu() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers() and bool(shutil.which("nvidia-smi"))
