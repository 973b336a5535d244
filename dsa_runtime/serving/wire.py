"""Messages of the protocol DSA1, to and from the parts of a ZeroMQ message. Pure: no sockets, no clocks.

PROTOCOL.md says what the messages mean. What `unpack` returns is well-formed: a map of plain, finite values, and
buffers of the sizes they claim. Whether the values make sense is asked by those who read them (`fields`).
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack  # type: ignore[import-untyped]

MAGIC = b"DSA1"
VERSION = 1
HEADER_BYTES = 1 << 16
"""The most bytes of a message's map."""
MOST_BUFFERS = 8
CODES = {
    "version": 1,
    "malformed": 2,
    "auth": 3,
    "epoch": 4,
    "session": 5,
    "unsupported": 6,
    "invalid": 7,
    "busy": 8,
    "deadline": 9,
    "cancelled": 10,
    "capacity": 11,
    "draining": 12,
    "internal": 13,
}
"""Codes of errors, and their numbers for languages that would rather compare those."""
RETRY = frozenset({"busy", "capacity", "draining"})
"""Codes of errors that may be gone when the same is asked again: of another server, where it is draining."""
ITEM_BYTES = {"u1": 1, "i1": 1, "u2": 2, "i2": 2, "f2": 2, "u4": 4, "i4": 4, "f4": 4, "u8": 8, "i8": 8, "f8": 8}
ENCODINGS = ("raw", "jpeg", "png")

Bytes = bytes | bytearray | memoryview

_UINT64 = 2**64 - 1
_MOST_DEPTH = 8  # of maps and arrays in each other
_MOST_ITEMS = 1 << 14  # of one array: a header claims its length before it holds anything
_MOST_KEYS = 256
_MOST_DIMENSIONS = 8
_MOST_NAME = 64
_MOST_TEXT = 500  # of an error: it may repeat what it was given
_RESERVED = ("t", "id", "bufs")


class WireError(Exception):
    """A message that cannot be followed, with the code it is answered by."""

    def __init__(self, code: str, problem: str, *, ran: str = "no", id: int = 0, extra: Mapping[str, Any] = {}) -> None:
        super().__init__(problem)
        self.code = code
        self.ran = ran
        """Whether what was asked for has happened: `no`, `yes` or `unknown`."""
        self.id = id
        """Of the message, where it could be read; else 0."""
        self.extra = dict(extra)
        """Further fields of the reply."""


@dataclass(frozen=True)
class Buffer:
    """One block of bytes beside the map: in a part of its own, or in the session's ring in shared memory."""

    name: str
    dtype: str
    """A key of `ITEM_BYTES`; numbers are little-endian."""
    shape: tuple[int, ...]
    """In C order."""
    data: Bytes | None = None
    """The part; None if it is in the ring."""
    encoding: str = "raw"
    """`raw`, or the format of the picture that stands for the array: `jpeg` or `png`."""
    slot: int = 0
    seq: int = 0
    """Where in the ring, see `FrameRing`."""

    @property
    def nbytes(self) -> int:
        """Size of the array."""
        return ITEM_BYTES[self.dtype] * math.prod(self.shape)

    @classmethod
    def of_bytes(cls, name: str, data: Bytes) -> Buffer:
        """Plain bytes."""
        return cls(name, "u1", (len(data),), data)


@dataclass(frozen=True)
class Message:
    """A request or a reply."""

    type: str
    id: int
    """Of the request; a reply has that of what it answers."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Everything in the map but `t`, `id` and `bufs`."""
    buffers: tuple[Buffer, ...] = ()

    def buffer(self, name: str) -> Buffer:
        """The buffer of that name. Raises `WireError` (malformed) if there is none."""
        for buffer in self.buffers:
            if buffer.name == name:
                return buffer
        raise WireError("malformed", f"bufs: expected one named {name!r}")


def pack(message: Message) -> list[Bytes]:
    """The parts of a message. Buffers are not copied.

    Raises `ValueError` if its map is larger than `HEADER_BYTES`.
    """
    header = {"t": message.type, "id": message.id, **message.fields}
    if message.buffers:
        header["bufs"] = [_describe(buffer) for buffer in message.buffers]
    packed: bytes = msgpack.packb(header)
    if len(packed) > HEADER_BYTES:
        raise ValueError(f"{message.type}: a map of {len(packed)} bytes, and {HEADER_BYTES} is the most")
    return [MAGIC, packed, *(buffer.data for buffer in message.buffers if buffer.data is not None)]


def unpack(parts: Sequence[Bytes]) -> Message:
    """The message in these parts. Raises `WireError` (malformed) for anything that is none."""
    if not parts or bytes(parts[0][: len(MAGIC) + 1]) != MAGIC:
        raise WireError("malformed", f"part 0: expected the 4 bytes {MAGIC.decode()}")
    if len(parts) < 2:
        raise WireError("malformed", "part 1: missing, expected a msgpack map")
    header = _read_header(parts[1])
    id = header.get("id")
    if not _is_uint(id):
        raise WireError("malformed", f"id: expected an unsigned 64-bit integer, got {reprlib.repr(id)}")
    assert isinstance(id, int)
    try:
        kind = header.get("t")
        if not isinstance(kind, str):
            raise WireError("malformed", f"t: expected a string, got {reprlib.repr(kind)}")
        buffers = _read_buffers(header.get("bufs"), parts[2:])
    except WireError as error:
        error.id = id
        raise
    return Message(kind, id, {key: value for key, value in header.items() if key not in _RESERVED}, buffers)


def error_message(error: WireError) -> Message:
    """The reply that tells of an error."""
    fields = {
        "code": error.code,
        "num": CODES[error.code],
        "msg": str(error)[:_MOST_TEXT],
        "retry": error.code in RETRY,
        "ran": error.ran,
        **error.extra,
    }
    return Message("error", error.id, fields)


def _read_header(packed: Bytes) -> dict[str, Any]:
    if len(packed) > HEADER_BYTES:
        raise WireError("malformed", f"part 1: {len(packed)} bytes, and {HEADER_BYTES} is the most")
    try:
        header = msgpack.unpackb(
            packed, strict_map_key=True, ext_hook=_refuse_ext, max_array_len=_MOST_ITEMS, max_map_len=_MOST_KEYS
        )
    except (ValueError, TypeError, RecursionError) as error:  # all that msgpack raises on bytes
        raise WireError("malformed", f"part 1: not a msgpack map: {str(error)[:200]}") from None
    if not isinstance(header, dict):
        raise WireError("malformed", "part 1: expected a msgpack map")
    _check_plain(header, 0)
    return header


def _check_plain(value: Any, depth: int) -> None:
    """Refuse what JSON-like data cannot hold. A float that is no number would pass every later comparison."""
    kind = type(value)
    if kind in (str, bytes, int, bool) or value is None:
        return
    if kind is float:
        if not math.isfinite(value):
            raise WireError("malformed", f"part 1: holds the number {value}, expected finite ones")
        return
    if depth == _MOST_DEPTH:
        raise WireError("malformed", f"part 1: maps and arrays more than {_MOST_DEPTH} deep")
    if kind is list:
        for item in value:
            _check_plain(item, depth + 1)
    elif kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise WireError("malformed", "part 1: expected strings as keys")
            _check_plain(item, depth + 1)
    else:  # msgpack's time stamps
        raise WireError("malformed", f"part 1: holds a {kind.__name__}; extension types are not used")


def _refuse_ext(code: int, data: bytes) -> Any:
    raise ValueError(f"extension type {code}; they are not used")


def _read_buffers(listed: Any, parts: Sequence[Bytes]) -> tuple[Buffer, ...]:
    if listed is None:
        listed = []
    if not isinstance(listed, list) or len(listed) > MOST_BUFFERS:
        raise WireError("malformed", f"bufs: expected an array of at most {MOST_BUFFERS} maps")
    buffers, rest = [], list(parts)
    for index, entry in enumerate(listed):
        buffers.append(_read_buffer(f"bufs[{index}]", entry, rest))
    if rest:
        raise WireError("malformed", f"bufs: {len(rest)} parts more than it lists")
    return tuple(buffers)


def _read_buffer(where: str, entry: Any, rest: list[Bytes]) -> Buffer:
    """One buffer; takes its part, if it has one, off `rest`."""
    if not isinstance(entry, dict):
        raise WireError("malformed", f"{where}: expected a map, got {reprlib.repr(entry)}")
    name, dtype, shape, at = (entry.get(key) for key in ("n", "d", "s", "at"))
    encoding, slot, seq = entry.get("enc", "raw"), entry.get("slot", 0), entry.get("seq", 0)
    if not isinstance(name, str) or len(name) > _MOST_NAME:
        raise WireError("malformed", f"{where}.n: expected a string of at most {_MOST_NAME}, got {reprlib.repr(name)}")
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise WireError("malformed", f"{where}.d: expected one of {', '.join(ITEM_BYTES)}, got {reprlib.repr(dtype)}")
    if not isinstance(shape, list) or len(shape) > _MOST_DIMENSIONS or not all(map(_is_uint, shape)):
        raise WireError("malformed", f"{where}.s: expected an array of sizes, got {reprlib.repr(shape)}")
    if encoding not in ENCODINGS:
        problem = f"{where}.enc: expected one of {', '.join(ENCODINGS)}, got {reprlib.repr(encoding)}"
        raise WireError("malformed", problem)
    if at == "shm":
        if not _is_uint(slot) or not _is_uint(seq):
            raise WireError("malformed", f"{where}.slot: expected slot and seq, integers")
        return Buffer(name, dtype, tuple(shape), None, encoding, slot, seq)
    if at != "part":
        raise WireError("malformed", f"{where}.at: expected part or shm, got {reprlib.repr(at)}")
    if not rest:
        raise WireError("malformed", f"{where}: its part is missing")
    buffer = Buffer(name, dtype, tuple(shape), memoryview(rest.pop(0)).cast("B"), encoding)
    assert buffer.data is not None
    if encoding == "raw" and len(buffer.data) != buffer.nbytes:
        raise WireError("malformed", f"{where}: expected {buffer.nbytes} bytes, got {len(buffer.data)}")
    return buffer


def _describe(buffer: Buffer) -> dict[str, Any]:
    entry = {"n": buffer.name, "d": buffer.dtype, "s": list(buffer.shape), "enc": buffer.encoding}
    if buffer.data is not None:
        return {**entry, "at": "part"}
    return {**entry, "at": "shm", "slot": buffer.slot, "seq": buffer.seq}


def _is_uint(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _UINT64
