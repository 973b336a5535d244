"""A real browser, where the machine has one: for tests and for the bench."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Without a sandbox, as tests run as root in containers, and without the calls home that a closed network refuses.
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
PATIENCE_MS = 60_000.0


def missing() -> str | None:
    """Why there is no browser to be had; None if there is."""
    try:
        import playwright.sync_api  # noqa: F401
    except ModuleNotFoundError:
        return "needs playwright: pip install playwright"
    return None if _executable() else "needs Chromium: apt install chromium"


@contextmanager
def chromium() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_executable(), args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def play(*arguments: object) -> Iterator[str]:
    """`dsa play` with these arguments, in a process of its own: its address."""
    command = [sys.executable, "-m", "dsa_runtime.cli", "play", "--json", "--no-browser", "--port", "0"]
    env: dict[str, Any] = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    with subprocess.Popen([*command, *map(str, arguments)], env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.terminate()


def _executable() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
