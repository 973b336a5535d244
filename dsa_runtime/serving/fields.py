"""Checked access to the fields of a message's map. Every error is a `WireError` (malformed) that names the field."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from .wire import WireError

Fields = Mapping[str, Any]
T = TypeVar("T")


def uint64(fields: Fields, name: str) -> int:
    """An integer in 0..2**64 - 1."""
    return integer(fields, name, 0, 2**64 - 1)


def integer(fields: Fields, name: str, low: int, high: int) -> int:
    """An integer in low..high."""
    value = fields.get(name)
    if type(value) is not int:
        raise _expected(fields, name, "an integer")
    if not low <= value <= high:
        raise WireError("malformed", f"{name}: must lie in {low}..{high}, got {value}")
    return value


def number(fields: Fields, name: str) -> float:
    """A finite number."""
    value = fields.get(name)
    if type(value) not in (int, float):
        raise _expected(fields, name, "a number")
    return float(value)  # type: ignore[arg-type]


def text(fields: Fields, name: str) -> str:
    """A string."""
    value = fields.get(name)
    if not isinstance(value, str):
        raise _expected(fields, name, "a string")
    return value


def choice(fields: Fields, name: str, among: tuple[str, ...]) -> str:
    """One of these strings."""
    value = text(fields, name)
    if value not in among:
        raise WireError("malformed", f"{name}: expected one of {', '.join(among)}, got {reprlib.repr(value)}")
    return value


def texts(fields: Fields, name: str) -> list[str]:
    """An array of strings."""
    value = fields.get(name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _expected(fields, name, "an array of strings")
    return value


def boolean(fields: Fields, name: str) -> bool:
    """True or false."""
    value = fields.get(name)
    if not isinstance(value, bool):
        raise _expected(fields, name, "true or false")
    return value


def binary(fields: Fields, name: str) -> bytes:
    """Bytes."""
    value = fields.get(name)
    if not isinstance(value, bytes):
        raise _expected(fields, name, "bytes")
    return value


def mapping(fields: Fields, name: str) -> dict[str, Any]:
    """A map."""
    value = fields.get(name)
    if not isinstance(value, dict):
        raise _expected(fields, name, "a map")
    return value


def array(fields: Fields, name: str) -> list[Any]:
    """An array."""
    value = fields.get(name)
    if not isinstance(value, list):
        raise _expected(fields, name, "an array")
    return value


def optional(read: Callable[[Fields, str], T], fields: Fields, name: str) -> T | None:
    """What `read` makes of a field; None if it is absent or null."""
    return None if fields.get(name) is None else read(fields, name)


def _expected(fields: Fields, name: str, what: str) -> WireError:
    if name not in fields:
        return WireError("malformed", f"{name}: missing field, expected {what}")
    return WireError("malformed", f"{name}: expected {what}, got {reprlib.repr(fields[name])}")
