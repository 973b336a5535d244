"""Logs of a server: on stderr, a line for reading or a JSON object a line. Everything goes through `logging`.

What is worth a search is a field of its own: `logger.info("session opened", extra={"fields": {"world": "tiny"}})`.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any, TextIO

from .observer import Observer, label

STYLES = ("text", "json")
_ROOT = "dsa_runtime"
_MOST = 200  # characters of what others have chosen


@contextmanager
def logging_to(style: str, stream: TextIO | None = None) -> Iterator[None]:
    """Write what the SDK logs, from INFO up, to a stream (stderr) in one of `STYLES`.

    For programs. The SDK itself never does: a library's logs are its user's business.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if style == "json" else TextLines())
    logger = logging.getLogger(_ROOT)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before


class JsonLines(logging.Formatter):
    """`{"time": ..., "level": ..., "logger": ..., "event": ..., fields..., "error": traceback}` on one line."""

    def format(self, record: logging.LogRecord) -> str:
        """As `logging` calls it."""
        document = {
            **_fields(record),
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        if record.exc_info:
            document["error"] = self.formatException(record.exc_info)
        return json.dumps(document, default=str)


class TextLines(logging.Formatter):
    """`2026-01-31T12:00:00.000Z INFO session opened world=tiny`, and a traceback below it if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """As `logging` calls it."""
        fields = "".join(f" {name}={_plain(value)}" for name, value in _fields(record).items())
        # What a peer has sent must not begin a line of its own.
        line = f"{_time(record)} {record.levelname} {_printable(record.getMessage())}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class Log(Observer):
    """Writes down what a server tells it: who comes and goes, and what fails. Not every request."""

    _logger = logging.getLogger(__name__)

    def greeted(self, client: str) -> None:
        self._logger.info("client said hello", extra={"fields": {"client": client[:_MOST]}})

    def opened(self, sid: int, world: str) -> None:
        self._logger.info("session opened", extra={"fields": {"session": label(sid), "world": world}})

    def closed(self, sid: int, reason: str) -> None:
        level = logging.WARNING if reason == "reaped" else logging.INFO
        self._logger.log(level, "session closed", extra={"fields": {"session": label(sid), "reason": reason}})

    def refused(self, code: str, problem: str) -> None:
        self._logger.warning("session refused", extra={"fields": {"code": code, "problem": problem}})

    def failed(self, what: str, incident: int, error: Exception) -> None:
        self._logger.error(what[:_MOST], extra={"fields": {"incident": incident}}, exc_info=error)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, "fields", {})
    return fields


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(value: Any) -> str:
    """A value on one line, quoted where it is not a single word."""
    text = str(value)
    return text if text.isprintable() and text and not set(' "=') & set(text) else json.dumps(text)


def _printable(text: str) -> str:
    return text if text.isprintable() else json.dumps(text)[1:-1]
