"""The two styles of logs, and what systemd is told."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsa_runtime.serving.log import logging_to
from dsa_runtime.serving.service import notify, watchdog_s

LOGGER = logging.getLogger("dsa_runtime.serving.test")


@pytest.fixture
def lines(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """What is written, in the style that the test asks for."""
    stream = io.StringIO()
    with logging_to(request.param, stream):
        yield stream


@pytest.mark.parametrize("lines", ["json"], indirect=True)
def test_json_is_one_object_a_line(lines: io.StringIO) -> None:
    LOGGER.info("session %s", "opened", extra={"fields": {"world": "a\nb", "path": Path("x"), "level": "mine"}})
    try:
        raise ValueError("broken")
    except ValueError:
        LOGGER.exception("failed")
    LOGGER.debug("too small to tell")
    first, second = map(json.loads, lines.getvalue().splitlines())
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "info", "logger": "dsa_runtime.serving.test", "event": "session opened", "world": "a\nb", "path": "x"
    }  # fmt: skip
    assert second["level"] == "error"
    assert "ValueError: broken" in second["error"]


@pytest.mark.parametrize("lines", ["text"], indirect=True)
def test_text_is_a_line_that_peers_cannot_break(lines: io.StringIO) -> None:
    fields = {"world": "tiny", "client": "a\nERROR all is lost", "n": 3, "note": "two words", "empty": ""}
    LOGGER.info("session opened\nERROR", extra={"fields": fields})
    (line,) = lines.getvalue().splitlines()
    assert line.partition(" ")[2] == (
        'INFO session opened\\nERROR world=tiny client="a\\nERROR all is lost" n=3 note="two words" empty=""'
    )


@pytest.mark.parametrize("lines", ["text"], indirect=True)
def test_text_shows_tracebacks(lines: io.StringIO) -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        LOGGER.exception("failed")
    assert lines.getvalue().splitlines()[-1] == "ValueError: broken"


def test_logs_are_left_as_they_were() -> None:
    root, stream = logging.getLogger("dsa_runtime"), io.StringIO()
    before = root.handlers.copy(), root.level, root.propagate
    with logging_to("text", stream):
        assert root.handlers != before[0]
    assert (root.handlers, root.level, root.propagate) == before


def test_what_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        assert notify("READY=1")
        assert systemd.recv(64) == b"READY=1"
    assert not notify("READY=1"), "nobody listens any more"
    monkeypatch.delenv("NOTIFY_SOCKET")
    assert not notify("READY=1")


def test_an_abstract_socket_of_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"dsa-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{name}")
        systemd.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        assert notify("STOPPING=1")
        assert systemd.recv(64) == b"STOPPING=1"


@pytest.mark.parametrize(
    ("interval", "pid", "expected"),
    [
        ("2500000", None, 2.5), ("2500000", "ours", 2.5), ("2500000", "1", None),
        ("", None, None), ("0", None, None), ("x", None, None),
    ],
)  # fmt: skip
def test_how_often_systemd_wants_to_hear(
    monkeypatch: pytest.MonkeyPatch, interval: str, pid: str | None, expected: float | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", interval)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    if pid is not None:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "ours" else pid)
    assert watchdog_s() == expected
