"""What can go wrong when the library starts Python: each is an error with words, and the host lives."""

from __future__ import annotations

import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.capi.conftest import attempt, run

Program = Callable[[str], Path]


@pytest.fixture
def start(program: Program) -> Path:
    return program("start")


def fake_package(folder: Path, text: str) -> str:
    """A folder for PYTHONPATH, in which the package is this."""
    (folder / "dsa_runtime" / "capi").mkdir(parents=True)
    for name in ("dsa_runtime/__init__.py", "dsa_runtime/capi/__init__.py"):
        (folder / name).write_text("")
    (folder / "dsa_runtime" / "capi" / "embedded.py").write_text(text)
    return str(folder)


def test_a_python_that_is_not_there(start: Path) -> None:
    assert (
        run(start, DSA_PYTHON="/nowhere/python") == "DSA_E_START python: /nowhere/python: not there, or cannot be run\n"
    )


def test_what_is_asked_for_counts_more_than_the_environment_and_a_refusal_is_not_for_ever(start: Path) -> None:
    printed = run(start, "/nowhere/python", sys.executable, "-", sys.executable, "/bin/sh", DSA_PYTHON="/nowhere/else")
    refused, *opened, second = printed.splitlines()
    assert refused.startswith("DSA_E_START python: /nowhere/python: not there")
    assert [line.strip() for line in opened] == ["DSA_OK"] * 3
    assert second.startswith("DSA_E_START python: a process has one Python") and sys.executable in second


def test_an_activated_environment_is_found_and_else_the_one_that_built_the_library(start: Path, tmp_path: Path) -> None:
    assert "tmp" not in run(start, DSA_PYTHON=None, VIRTUAL_ENV=None).strip().removeprefix("DSA_OK")
    assert str(tmp_path) in run(start, DSA_PYTHON=None, VIRTUAL_ENV=str(tmp_path))


@pytest.mark.parametrize("key", ["version", "version_info"])
def test_an_environment_of_another_version(start: Path, tmp_path: Path, key: str) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "pyvenv.cfg").write_text(f"home = /usr/bin\n{key} = 3.2.6\n")
    printed = run(start, DSA_PYTHON=str(tmp_path / "bin" / "python"))
    assert printed.startswith("DSA_E_START python: ") and "is Python 3.2.6, this library was built for 3." in printed


def test_an_interpreter_of_another_version(start: Path, tmp_path: Path) -> None:
    (tmp_path / "python3.2").write_text("#!/bin/sh\n")
    (tmp_path / "python3.2").chmod(0o755)
    (tmp_path / "python").symlink_to("python3.2")
    assert "is Python 3.2" not in run(start)
    assert "is 3.2, this" in run(start, DSA_PYTHON=str(tmp_path / "python")).replace("Python ", "")


def test_an_environment_without_the_package(start: Path, tmp_path: Path) -> None:
    venv.create(tmp_path, symlinks=True)
    printed = run(start, DSA_PYTHON=str(tmp_path / "bin" / "python"))
    assert printed.startswith("DSA_E_START cffi: No module named '_cffi_backend'; is dsa-runtime installed there? (")
    assert f"{tmp_path}/bin/python -m pip install dsa-runtime" in printed


def test_a_home_that_is_none(start: Path, tmp_path: Path) -> None:
    printed = run(start, PYTHONHOME=str(tmp_path))
    assert printed.startswith(f"DSA_E_START PYTHONHOME: {tmp_path} holds no Python 3.")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("raise RuntimeError('broken')", "dsa_runtime: broken; is dsa-runtime installed there?"),
        ("raise SystemExit(3)", "dsa_runtime: 3; is dsa-runtime installed there?"),
        ("def source_digest(): return 'another'", "of another version than this library; build the library again"),
        ("def source_digest(): return 3", "of another version than this library; build the library again"),
        ("def source_digest(): raise SystemExit(4)", "dsa_runtime: 4;"),
    ],
)
def test_a_package_that_is_damaged_or_of_another_version(start: Path, tmp_path: Path, text: str, words: str) -> None:
    printed = run(start, PYTHONPATH=fake_package(tmp_path, text))
    assert printed.startswith("DSA_E_START ") and words in printed


def test_a_python_that_cannot_start_does_not_end_the_host(start: Path, tmp_path: Path) -> None:
    (tmp_path / "encodings").mkdir()
    (tmp_path / "encodings" / "__init__.py").write_text("raise ImportError('not a standard library')\n")
    done = attempt(start, "-", "-", PYTHONPATH=str(tmp_path))
    first, second = done.stdout.decode().splitlines()
    assert done.returncode == 0
    assert first.startswith("DSA_E_START Python could not start (")
    assert second.startswith("DSA_E_START Python has failed to start in this process before")
