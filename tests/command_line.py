"""The command line in this process, as a shell sees it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dsa_runtime import cli

Result = tuple[int, str, str]
"""Exit status, stdout, stderr."""
Run = Callable[..., Result]


def run_dsa(capsys: pytest.CaptureFixture[str], *arguments: object) -> Result:
    """`dsa` with these arguments."""
    try:
        status = cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        status = int(stop.code or 0)
    return status, *capsys.readouterr()


def fails(result: Result, *words: str, prefix: str = "dsa") -> None:
    """Exit status 2 and one line on stderr that says what is wrong, and nothing on stdout."""
    status, out, err = result
    assert (status, out) == (2, "")
    assert err.startswith(prefix) and err.count("\n") == 1 and err.endswith("\n"), err
    for word in words:
        assert word in err
