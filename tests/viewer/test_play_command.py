"""`dsa play` as a command: what it refuses, and that it starts and ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from dsa_runtime.viewer.page import STATIC
from tests.command_line import fails, run_dsa

PATIENCE_S = 60.0
Refusal = Callable[..., str]


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Refusal:
    """Run `dsa play` with these arguments: the line that says why not."""

    def run(*arguments: object) -> str:
        result = run_dsa(capsys, "play", *arguments)
        fails(result, prefix="dsa play: ")
        return result[2]

    return run


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--port", "65536"), "0..65535"),
        (("--budget-ms", "0.01"), "--budget-ms: must lie in 0.1..60000"),
        (("--budget-ms", "nan"), "budget_ms"),
        (("--seed", "-1"), "seed: must lie in"),
        (("--quality", "0.5"), "without risk bounds"),
        (("--tabs", "0"), "at least 1"),
        (("--key", "robot"), "--key: is for --watch"),
        (("--prompt", "a storm"), "--prompt: the world 'tiny' takes no text"),
        (("--watch", "ipc:///nobody/here"), "has its own"),
    ],
)
def test_what_cannot_be_is_refused(
    refusal: Refusal, tiny_package: Path, arguments: tuple[str, ...], problem: str
) -> None:
    assert problem in refusal(tiny_package, *arguments, "--threads", 1, "--no-browser")


def test_without_its_library_it_says_how_to_get_it(refusal: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "dsa_runtime.viewer.page")
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    assert "pip install 'dsa-runtime[viewer]'" in refusal("--no-browser")


def test_a_server_that_nobody_runs_is_said_at_once(refusal: Refusal, tmp_path: Path) -> None:
    assert "no answer" in refusal("--watch", f"ipc://{tmp_path}/nobody", "--no-browser")


def test_it_serves_its_page_and_ends_when_told(tiny_package: Path) -> None:
    command = [sys.executable, "-m", "dsa_runtime.cli", "play", str(tiny_package), "--threads", "1"]
    options = ["--port", "0", "--no-browser", "--json"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        with urllib.request.urlopen(ready["url"], timeout=PATIENCE_S) as reply:
            assert reply.read() == (STATIC / "index.html").read_bytes()
            policy = reply.headers["Content-Security-Policy"].split("; ")
            own = ready["url"].removeprefix("http://").rstrip("/")
            assert f"connect-src 'self' ws://{own}" in policy and "frame-ancestors 'none'" in policy
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (0, "")
    assert json.loads(out)["url"] == ready["url"]


def test_everything_the_page_loads_is_in_the_package() -> None:
    """No network: what is named is here, and nothing is named that is elsewhere."""
    texts = {path: path.read_text() for path in [STATIC / "index.html", STATIC / "style.css", *STATIC.glob("js/*.js")]}
    for path, text in texts.items():
        assert "https:" not in text and "http://" not in text.replace("xmlns='http://www.w3.org/2000/svg'", ""), path
    for name in ("style.css", "js/main.js", "vendor/uplot/dist/uPlot.esm.js", "vendor/uplot/dist/uPlot.min.css"):
        assert (STATIC / name).is_file()
        assert any(f"/static/{name}" in text for text in texts.values())
    assert "MIT" in (STATIC / "vendor/uplot/LICENSE").read_text()
