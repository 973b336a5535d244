"""Snapshot: a session's state as portable bytes, to go on elsewhere with the same frames.

Layout, format version 1; numbers are little-endian:

    8 bytes          "DSASNAP" and a line feed
    uint32           format version
    uint32           length of the header
    header           a msgpack map, the fields of `_Header`
    arrays           raw, in C order, each of the dtype and shape that the header lists: the newest tick's
                     action and latent, then keys and values of the window per layer, oldest tick first; in worlds
                     that need it the newest picture, what a streaming decoder remembers, the prompt's embeddings,
                     and the latents and actions of the window
    32 bytes         BLAKE2b-256 of everything before it

Keys and values are stored as float32, which is exact also for those in float16; the window makes nearly all of the size
(1.3 MB for the bundled world). The digest finds damage; it is no signature. So nothing in a snapshot is
trusted: it is data only, and every length, type, range and shape is compared with the world's spec before use.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import reprlib
import struct
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgpack  # type: ignore[import-untyped]
import numpy as np

from . import __version__, strict_json
from .controller import Controller, ControllerState
from .errors import DsaError, SnapshotError, WorldError
from .spec import WorldSpec
from .state import SessionState

FORMAT_VERSION = 1
_MAGIC = b"DSASNAP\n"
_PREFIX = struct.Struct("<8sII")
_DIGEST_BYTES = 32
_MOST_HEADER_BYTES = 1 << 20
_MOST_MESSAGE = 500
_FLOATS, _PIXELS = "<f4", "|u1"

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What a session needs to go on."""

    state: SessionState
    controller: Controller
    frames: tuple[np.ndarray, ...]
    """The window, oldest tick first: `float32[filled, tokens, heads, head_dim]` for the keys of layer 0, its
    values, the keys of layer 1, ..."""
    sources: tuple[np.ndarray, ...] = ()
    """In worlds that take text, of what these were made: `float32[filled, *latent]`, `float32[filled, actions]`."""
    text: np.ndarray | None = None
    """`float32[tokens, width]`: the prompt there. The state's own is not part of a snapshot."""


@dataclass(frozen=True)
class _Array:
    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Header:
    world: str
    version: str
    fingerprint: str
    sdk: str
    """Version of the SDK that wrote it."""
    seed: int
    tick: int
    controller: Mapping[str, Any]
    controller_state: Mapping[str, Any]
    arrays: tuple[_Array, ...]

    def __post_init__(self) -> None:
        for name, most in (("seed", 2**64 - 1), ("tick", 2**63 - 1)):
            if not 0 <= getattr(self, name) <= most:
                raise WorldError(f"{name}: must lie in 0..{most}, got {getattr(self, name)}")


def encode(spec: WorldSpec, snapshot: Snapshot) -> bytes:
    """The bytes of a snapshot of a session in the world `spec`."""
    state = snapshot.state
    found = [state.action, state.latent, *snapshot.frames]
    if state.shown is not None:
        found += [state.shown, *map(np.asarray, state.stream)]
    if snapshot.text is not None:
        found += [snapshot.text, *snapshot.sources]
    named = _arrays(spec, len(snapshot.frames[0]), bool(state.stream))
    arrays = [np.ascontiguousarray(array, entry.dtype) for array, entry in zip(found, named, strict=True)]
    header = _Header(
        world=spec.name,
        version=spec.version,
        fingerprint=spec.fingerprint,
        sdk=__version__,
        seed=state.seed,
        tick=state.tick,
        controller=strict_json.encode(snapshot.controller),
        controller_state=strict_json.encode(state.controller),
        arrays=tuple(named),
    )
    packed = msgpack.packb(strict_json.encode(header))
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    raw = (array.data.cast("B") for array in arrays if array.size)
    parts = [_PREFIX.pack(_MAGIC, FORMAT_VERSION, len(packed)), packed, *raw]
    for part in parts:
        digest.update(part)
    return b"".join([*parts, digest.digest()])


def decode(spec: WorldSpec, data: bytes) -> Snapshot:
    """The snapshot in `data`. Raises `SnapshotError` unless it is whole and one of this world."""
    try:
        packed, body = _open(data)
        header = _read_header(packed)
        _check_world(spec, header)
        controller = _flat(Controller, header.controller, "snapshot.controller")
        arrays = _read_arrays(spec, header.arrays, body)
        state = SessionState(
            header.seed, header.tick, _controller_state(header), arrays.pop("action"), arrays.pop("latent"),
            _all_of(arrays, "state_"), arrays.pop("shown", None),
        )  # fmt: skip
        controller.plan(state.controller, spec.calibration, spec.schedule.steps)  # refuses what this world cannot do
    except DsaError as error:  # a damaged snapshot must not fill the log with what is in it
        raise SnapshotError(str(error)[:_MOST_MESSAGE]) from None
    sources = _all_of(arrays, "window_")
    return Snapshot(state, controller, _all_of(arrays, ""), sources, arrays.get("text"))


def _open(data: bytes) -> tuple[bytes, memoryview]:
    """Check the envelope. Returns the packed header and the bytes of the arrays."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise SnapshotError(f"snapshot: expected bytes, as session.snapshot() returns them, got {type(data).__name__}")
    data = bytes(data)  # the caller may change what is not
    if data[: len(_MAGIC)] != _MAGIC:
        raise SnapshotError("snapshot: these bytes are something else (they do not begin as a snapshot does)")
    if len(data) < _PREFIX.size + _DIGEST_BYTES:
        raise SnapshotError(f"snapshot: cut short: {len(data)} bytes; write it to the end, in binary mode")
    _, version, header_bytes = _PREFIX.unpack_from(data)
    if version != FORMAT_VERSION:
        raise SnapshotError(
            f"snapshot: format version {version}, this runtime reads {FORMAT_VERSION}; "
            "restore it with the dsa-runtime that wrote it"
        )
    rest = memoryview(data)[_PREFIX.size : -_DIGEST_BYTES]
    if header_bytes > min(len(rest), _MOST_HEADER_BYTES):
        raise SnapshotError(f"snapshot: cut short or damaged: its header of {header_bytes} bytes is not all there")
    digest = hashlib.blake2b(memoryview(data)[:-_DIGEST_BYTES], digest_size=_DIGEST_BYTES).digest()
    if digest != data[-_DIGEST_BYTES:]:
        raise SnapshotError("snapshot: damaged (its BLAKE2b digest does not match); use another copy")
    return bytes(rest[:header_bytes]), rest[header_bytes:]


def _read_header(packed: bytes) -> _Header:
    try:
        values = msgpack.unpackb(packed, strict_map_key=True)
    except (ValueError, TypeError, RecursionError) as error:  # all that msgpack raises on bytes
        raise SnapshotError(f"snapshot: its header is not msgpack: {error}") from None
    return strict_json.decode(_Header, values, "snapshot")


def _check_world(spec: WorldSpec, header: _Header) -> None:
    here, there = f"{spec.name!r} {spec.version}", f"{header.world[:80]!r} {header.version[:80]}"
    if (header.world, header.version) != (spec.name, spec.version):
        raise SnapshotError(f"snapshot: of world {there}, this is {here}; restore it in a session of its own world")
    if header.fingerprint != spec.fingerprint:
        raise SnapshotError(
            f"snapshot: of another build of {here} (fingerprint {header.fingerprint[:80]}, "
            f"this is {spec.fingerprint}); restore it in the package it was taken in"
        )


def _controller_state(header: _Header) -> ControllerState:
    state = _flat(ControllerState, header.controller_state, "snapshot.controller_state")
    if not 0 <= state.previous_score <= 1:
        raise SnapshotError(f"snapshot.controller_state.previous_score: must lie in [0, 1], got {state.previous_score}")
    for name in ("demand", "credit_ms"):
        value = getattr(state, name)
        if value is not None and value < 0:
            raise SnapshotError(f"snapshot.controller_state.{name}: must not be negative, got {value}")
    return state


def _read_arrays(spec: WorldSpec, listed: tuple[_Array, ...], body: memoryview) -> dict[str, np.ndarray]:
    """Copies of the arrays. None is made before all names, types and shapes are known to be right."""
    named = _arrays(spec, _filled(spec, listed), any(entry.name == "state_0" for entry in listed))
    names = [entry.name for entry in named]
    if [entry.name for entry in listed] != names:
        raise SnapshotError(f"snapshot.arrays: expected {', '.join(names)}, got others")
    for found, wanted in zip(listed, named, strict=True):
        where = f"snapshot.arrays.{wanted.name}"
        if found.dtype != wanted.dtype:
            raise SnapshotError(f"{where}: expected dtype {wanted.dtype!r}, got {reprlib.repr(found.dtype)}")
        if found.shape != wanted.shape:
            shape = reprlib.repr(list(found.shape))
            raise SnapshotError(f"{where}: expected shape {list(wanted.shape)}, got {shape}")
    expected = sum(np.dtype(entry.dtype).itemsize * math.prod(entry.shape) for entry in named)
    if len(body) != expected:
        raise SnapshotError(f"snapshot.arrays: expected {expected} bytes, got {len(body)}")
    arrays, start = {}, 0
    for entry in named:
        kind = np.dtype(entry.dtype)
        array = np.frombuffer(body, kind, math.prod(entry.shape), start)
        array = array.astype(kind.newbyteorder("=")).reshape(entry.shape)
        if not np.isfinite(array).all():
            raise SnapshotError(f"snapshot.arrays.{entry.name}: must be finite")
        arrays[entry.name] = array
        start += array.nbytes
    return arrays


def _filled(spec: WorldSpec, listed: tuple[_Array, ...]) -> int:
    """Ticks in the window: all of it, but where a world may begin with less."""
    told = next((entry.shape for entry in listed if entry.name == "key_0"), ())
    return told[0] if told and not spec.begins_full and 0 <= told[0] <= spec.cache.window else spec.cache.window


def _arrays(spec: WorldSpec, filled: int, streaming: bool) -> list[_Array]:
    """What a snapshot holds of a session with so many ticks in its window, whose decoder's stream has begun or not."""
    action, latent = (spec.action_space.width,), spec.latent.shape
    shapes = {"action": action, "latent": latent}
    for layer in range(spec.cache.layers):
        shapes |= dict.fromkeys((f"key_{layer}", f"value_{layer}"), (filled, *spec.cache.slot_shape))
    if spec.keeps_picture:
        shapes["shown"] = spec.frame.shape
    if streaming:
        shapes |= {f"state_{i}": (1, *shape) for i, shape in enumerate(spec.decoder.state)}
    if spec.text.width:
        shapes["text"] = (spec.text.tokens, spec.text.width)
        shapes |= {"window_latents": (filled, *latent), "window_actions": (filled, *action)}
    return [_Array(name, _PIXELS if name == "shown" else _FLOATS, shape) for name, shape in shapes.items()]


def _all_of(arrays: Mapping[str, np.ndarray], prefix: str) -> tuple[np.ndarray, ...]:
    """Those whose names begin so, in order; without a prefix the keys and values."""
    return tuple(array for name, array in arrays.items() if name.startswith(prefix or ("key_", "value_")))


def _flat(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """A dataclass of plain values. Its own checks come after those of names and types."""
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(typing.cast(Any, cls))]
    for name in values:
        if name not in names:
            raise SnapshotError(f"{where}.{name}: unknown to dsa-runtime {__version__}; restore it with a newer one")
    for name in names:
        if name not in values:
            raise SnapshotError(f"{where}.{name}: missing field")
    try:
        return cls(**{name: _plain(hints[name], value, f"{where}.{name}") for name, value in values.items()})
    except SnapshotError:
        raise
    except DsaError as error:
        raise SnapshotError(f"{where}.{error}") from None


def _plain(hint: Any, value: Any, where: str) -> Any:
    """`value` as the hint says: a union of None, bool, int, float, str and literals."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    for member in typing.get_args(hint) if union else (hint,):
        if typing.get_origin(member) is typing.Literal:
            if type(value) is str and value in typing.get_args(member):
                return value
        elif type(value) is member and not (member is float and not math.isfinite(value)):
            return value
        elif member is float and type(value) is int:
            return float(value)
    names = getattr(hint, "__name__", None) if isinstance(hint, type) else str(hint).replace("typing.", "")
    raise SnapshotError(f"{where}: expected {names}, got {reprlib.repr(value)}")
