"""What is generated: the reference from docstrings, the page of the command line; and the extras of `dsa info`."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import dsa_runtime
from dsa_runtime import cli
from dsa_runtime.commands import info
from tests.docs.pages import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_member_has_a_docstring() -> None:
    """Methods and properties that pdoc shows; fields of a dataclass may speak for themselves."""
    for name in dsa_runtime.__all__:
        owner = getattr(dsa_runtime, name)
        for member, value in vars(owner).items() if isinstance(owner, type) else ():
            if not member.startswith("_") and (callable(value) or isinstance(value, (property, classmethod))):
                assert getattr(owner, member).__doc__ or value.__doc__, f"{name}.{member}"


def test_the_reference_is_written(tmp_path: Path) -> None:
    """In a process of its own, as `make docs` does it: pdoc keeps settings, and imports every module it shows."""
    pytest.importorskip("pdoc")
    command = [sys.executable, "docs/reference.py", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0 and "Warn" not in result.stderr, result.stderr
    page = (tmp_path / "dsa_runtime.html").read_text()
    for name in set(dsa_runtime.__all__) - {"__version__"}:
        assert f'id="{name}"' in page, name
    assert "<code>budget_ms</code>" in page or "budget_ms</code>" in page


def test_aligned_columns_become_lists() -> None:
    pytest.importorskip("pdoc")
    markdown = script("reference").as_markdown
    docstring = (
        "Does.\n\nfirst, other  what\n              it is\nsecond        that\n\nPolicy:\ngain  stop\n\n    a  b"
    )
    expected = "Does.\n\n- `first`, `other`: what it is\n- `second`: that\n\nPolicy:\n\n- `gain`: stop\n\n    a  b"
    assert markdown(docstring) == expected
    assert markdown("Nothing  here fits\nall lines of it.") == "Nothing  here fits\nall lines of it."


def test_the_page_of_the_command_line_is_up_to_date() -> None:
    generated = script("command_line").page(cli.build_parser()[0])
    written = (ROOT / "docs/command-line.md").read_text()
    assert written == generated, "write it again: python docs/command_line.py > docs/command-line.md"


def test_info_knows_the_extras_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    users = {name: requirements for name, requirements in project.items() if name not in ("dev", "train", "convert")}
    named = {
        name: tuple(requirement.partition(">")[0].partition("[")[0] for requirement in requirements)
        for name, requirements in users.items()
    }
    assert {extra.name: extra.distributions for extra in info.EXTRAS} == named


def test_info_says_how_to_get_what_is_missing() -> None:
    missing = info.describe_extra(info.Extra("nothing", "tests", ("numpy", "no-such-distribution")))
    assert missing["missing"] == ["no-such-distribution"]
    assert missing["install"] == "pip install 'dsa-runtime[nothing]'"
    assert info.describe_extra(info.Extra("numbers", "tests", ("numpy",)))["install"] is None
