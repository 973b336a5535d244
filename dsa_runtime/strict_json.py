"""Strict JSON for frozen dataclasses. Nothing is guessed or ignored, and every error names the field.

A dataclass is an object with exactly its fields (those with a default may be absent, and `OPTIONAL` ones are,
while they have it), `tuple[X, ...]` an array, `Mapping[str, X]` an object with free keys, `Any` whatever JSON holds. A
union of dataclasses is told apart by the key `type`, which holds the class name.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from .errors import WorldError

T = TypeVar("T")


OPTIONAL = types.MappingProxyType({"optional": True})
"""`metadata` of a dataclass field that `encode` leaves out where it has its default: so documents stay as they were
before the field was thought of."""


def parse(text: str | bytes, source: str) -> dict[str, Any]:
    """The JSON object in `text`. Refuses what Python's parser lets through: NaN, infinity, repeated keys."""
    try:
        value = json.loads(text, parse_float=_finite, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise WorldError(f"{source}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise WorldError(f"{source}: expected an object, got {_kind(value)}")
    return value


def render(value: Mapping[str, Any]) -> str:
    """`value` as indented JSON text ending in a newline."""
    return json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def decode(cls: type[T], value: Any, where: str) -> T:
    """A `cls` (a dataclass) from parsed JSON; `where` is the field path that errors begin with."""
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, cls))}
    if not isinstance(value, dict):
        raise WorldError(f"{where}: expected an object, got {_kind(value)}")
    for name in value:
        if name not in fields:
            raise WorldError(f"{where}.{name}: unknown field")
    hints, arguments = _hints(typing.cast(Any, cls)), {}
    for name, field in fields.items():
        if name in value:
            arguments[name] = _decode(hints[name], value[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise WorldError(f"{where}.{name}: missing field")
    try:
        return cls(**arguments)
    except WorldError as error:  # raised by __post_init__, which knows its field but not its place in the document
        raise WorldError(f"{where}.{error}") from None


def encode(value: Any) -> Any:
    """The JSON form of a dataclass (or of anything inside one); the inverse of `decode`."""
    if dataclasses.is_dataclass(value):
        fields = {field.name: (field, getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {name: encode(item) for name, (field, item) in fields.items() if not _is_left_out(field, item)}
    if isinstance(value, Mapping):
        return {name: encode(item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in value]
    return value


def tagged(value: Any) -> dict[str, Any]:
    """The JSON form of one member of a union of dataclasses: its fields after the key `type`."""
    return {"type": type(value).__name__, **encode(value)}


def _is_left_out(field: dataclasses.Field[Any], value: Any) -> bool:
    if "optional" not in field.metadata:
        return False
    factory = field.default_factory
    return bool(value == (field.default if factory is dataclasses.MISSING else factory()))


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _decode(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _decode_union(arguments, value, where)
    if origin is tuple:
        return _decode_tuple(arguments, value, where)
    if origin is Mapping:
        if not isinstance(value, dict):
            raise WorldError(f"{where}: expected an object, got {_kind(value)}")
        return {name: _decode(arguments[1], item, f"{where}.{name}") for name, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return decode(typing.cast(Any, hint), value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) <= 2**53 else value
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise WorldError(f"{where}: expected {_NAMES[hint]}, got {_kind(value)}")
    return value


def _decode_union(members: tuple[Any, ...], value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise WorldError(f"{where}: expected an object, got {_kind(value)}")
    kinds = {member.__name__: member for member in members}
    kind = value.get("type")
    if not isinstance(kind, str) or kind not in kinds:
        raise WorldError(f"{where}.type: expected one of {', '.join(kinds)}, got {kind!r}")
    return decode(kinds[kind], {name: item for name, item in value.items() if name != "type"}, where)


def _decode_tuple(items: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise WorldError(f"{where}: expected an array, got {_kind(value)}")
    if items[-1] is Ellipsis:
        return tuple(_decode(items[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if len(value) != len(items):
        raise WorldError(f"{where}: expected {len(items)} items, got {len(value)}")
    return tuple(_decode(hint, item, f"{where}[{i}]") for i, (hint, item) in enumerate(zip(items, value, strict=True)))


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        repeated = next(name for index, (name, _) in enumerate(pairs) if name in dict(pairs[:index]))
        raise ValueError(f"the key {repeated!r} appears twice")
    return result


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text} is out of range")
    return value


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


_NAMES = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    return {dict: "an object", list: "an array", **_NAMES}.get(type(value), type(value).__name__)
