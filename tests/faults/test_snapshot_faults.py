"""Damaged, foreign and hostile snapshots: a `SnapshotError` that says what is wrong, and nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsa_runtime import WorldSpec
from dsa_runtime.errors import SnapshotError
from dsa_runtime.snapshot import decode, encode
from dsa_runtime.spec import FileEntry
from tests.unit.test_snapshot import make_snapshot

Header = dict[str, Any]
PREFIX, DIGEST = 16, 32


@pytest.fixture(scope="module")
def spec(tiny_package: Path) -> WorldSpec:
    return WorldSpec.from_json((tiny_package / "world.json").read_text())


@pytest.fixture(scope="module")
def data(spec: WorldSpec) -> bytes:
    return encode(spec, make_snapshot(spec))


def refuses(spec: WorldSpec, data: Any, *mentions: str) -> None:
    with pytest.raises(SnapshotError) as caught:
        decode(spec, data)
    message = str(caught.value)
    assert message.startswith("snapshot")
    assert len(message) < 600, "a damaged snapshot must not fill the log"
    for mention in mentions:
        assert mention in message


def sealed(packed: bytes, body: bytes, length: int | None = None) -> bytes:
    """A snapshot with this header and these arrays, and a digest that matches."""
    content = struct.pack("<8sII", b"DSASNAP\n", 1, len(packed) if length is None else length) + packed + body
    return content + hashlib.blake2b(content, digest_size=DIGEST).digest()


def split(data: bytes) -> tuple[Header, bytes]:
    (length,) = struct.unpack_from("<I", data, 12)
    return msgpack.unpackb(data[PREFIX : PREFIX + length]), data[PREFIX + length : -DIGEST]


def forged(data: bytes, edit: Callable[[Header], object], body: bytes | None = None) -> bytes:
    """The snapshot with a changed header and a digest that matches."""
    header, old = split(data)
    edit(header)
    return sealed(msgpack.packb(header), old if body is None else body)


def test_the_tools_of_this_file_work(spec: WorldSpec, data: bytes) -> None:
    """Otherwise everything below would be refused for the wrong reason."""
    assert forged(data, lambda header: None) == data
    assert encode(spec, decode(spec, forged(data, lambda header: header.update(sdk="9.9")))) == data


def test_cut_short_anywhere(spec: WorldSpec, data: bytes) -> None:
    header, _ = split(data)
    ends = [0, 8, 12, 16, len(data) - DIGEST - sum(4 * int(np.prod(a["shape"])) for a in header["arrays"])]
    for array in header["arrays"]:
        ends.append(ends[-1] + 4 * int(np.prod(array["shape"])))
    assert ends[-1] == len(data) - DIGEST
    for end in {around for boundary in ends for around in (boundary - 1, boundary, boundary + 1)} | {len(data) - 1}:
        refuses(spec, data[: max(end, 0)])
    refuses(spec, data[:100], "cut short")


def test_something_added(spec: WorldSpec, data: bytes) -> None:
    refuses(spec, data + b"\0", "digest")
    refuses(spec, forged(data, lambda header: None, split(data)[1] + bytes(4)), "bytes")


@given(at=st.integers(min_value=0), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere(spec: WorldSpec, data: bytes, at: int, bit: int) -> None:
    damaged = bytearray(data)
    damaged[at % len(data)] ^= 1 << bit
    refuses(spec, bytes(damaged))


def test_a_flipped_bit_among_the_values_is_called_damage(spec: WorldSpec, data: bytes) -> None:
    damaged = bytearray(data)
    damaged[-DIGEST - 10] ^= 4
    refuses(spec, bytes(damaged), "damaged", "digest")


@pytest.mark.parametrize("junk", [b"", b"\0", b"PK\x03\x04" + bytes(100), pickle.dumps(print), bytes(1000)])
def test_other_bytes(spec: WorldSpec, junk: bytes) -> None:
    refuses(spec, junk)


@pytest.mark.parametrize("junk", [None, "text", 7, [1, 2], np.zeros(3)])
def test_no_bytes_at_all(spec: WorldSpec, junk: Any) -> None:
    refuses(spec, junk, "expected bytes", type(junk).__name__)


def test_another_world(spec: WorldSpec, data: bytes) -> None:
    refuses(dataclasses.replace(spec, name="other", version="2.0"), data, "world 'tiny' 0.0.1, this is 'other' 2.0")
    refuses(dataclasses.replace(spec, version="2.0"), data, "'tiny' 0.0.1, this is 'tiny' 2.0")


def test_other_weights_under_the_same_name(spec: WorldSpec, data: bytes) -> None:
    files = {**spec.files, "weights.bin": FileEntry("0" * 64, 1)}
    refuses(dataclasses.replace(spec, files=files), data, "another build", spec.fingerprint)


def test_another_format_version(spec: WorldSpec, data: bytes) -> None:
    later = bytearray(data)
    later[8] = 3
    refuses(spec, bytes(later), "format version 3, this runtime reads 1")


@pytest.mark.parametrize("length", [0, 1, 10**6, 2**31, 2**32 - 1])
def test_a_lie_about_the_header(spec: WorldSpec, data: bytes, length: int) -> None:
    header, body = split(data)
    refuses(spec, sealed(msgpack.packb(header), body, length))


@pytest.mark.parametrize(
    "packed",
    [b"\xc0", b"\x91" * 5000, b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x81\xc4\x01a\xc0", b"\x81\x90\xc0",
     b"\x81\xa1\xff\xc0", b"\xc1", b"\x80\x80", b"\xd6\xff\0\0\0\0"],
)  # fmt: skip
def test_a_header_made_to_hurt(spec: WorldSpec, packed: bytes) -> None:
    tracemalloc.start()
    try:
        refuses(spec, sealed(packed, b""))
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("junk", [None, -1, 2**64 - 1, 1.5, True, "x" * 10000, b"x", [], [None], {}, {"a": 1}])
def test_any_field_may_hold_junk(spec: WorldSpec, data: bytes, junk: Any) -> None:
    """Every value in the header in turn is replaced and the digest made to match: refused, or a valid snapshot."""

    def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        return [path] * bool(path) + [place for key, item in items for place in places(item, (*path, key))]

    def put(place: tuple[Any, ...]) -> Callable[[Header], None]:
        def edit(header: Header) -> None:
            target: Any = header
            for key in place[:-1]:
                target = target[key]
            target[place[-1]] = junk

        return edit

    refused = 0
    for place in places(split(data)[0]):
        try:
            snapshot = decode(spec, forged(data, put(place)))
        except SnapshotError as error:
            refused += 1
            assert str(error).startswith("snapshot")
            assert len(str(error)) < 600
        else:
            decode(spec, encode(spec, snapshot))
    assert refused > 20


@pytest.mark.parametrize(
    ("field", "value", "mention"),
    [
        ("seed", -1, "snapshot.seed"),
        ("seed", 1.0, "snapshot.seed"),
        ("tick", -1, "snapshot.tick"),
        ("tick", 2**63, "snapshot.tick"),
        ("extra", 1, "snapshot.extra: unknown field"),
        ("arrays", [], "snapshot.arrays"),
    ],
)
def test_a_field_out_of_range(spec: WorldSpec, data: bytes, field: str, value: Any, mention: str) -> None:
    refuses(spec, forged(data, lambda header: header.update({field: value})), mention)


def test_a_missing_field(spec: WorldSpec, data: bytes) -> None:
    for field in split(data)[0]:
        refuses(spec, forged(data, lambda header, field=field: header.pop(field)), f"snapshot.{field}: missing field")


@pytest.mark.parametrize(
    ("part", "field", "value", "mention"),
    [
        ("controller", "policy", "brave", "snapshot.controller.policy"),
        ("controller", "min_steps", 0, "snapshot.controller.min_steps"),
        ("controller", "min_steps", True, "snapshot.controller.min_steps"),
        ("controller", "quantile", float("nan"), "snapshot.controller.quantile"),
        ("controller", "threshold", "high", "snapshot.controller.threshold"),
        ("controller", "courage", 1, "snapshot.controller.courage"),
        ("controller_state", "previous_score", 1.5, "snapshot.controller_state.previous_score"),
        ("controller_state", "previous_score", None, "snapshot.controller_state.previous_score"),
        ("controller_state", "demand", float("inf"), "snapshot.controller_state.demand"),
        ("controller_state", "demand", -1.0, "snapshot.controller_state.demand"),
        ("controller_state", "credit_ms", float("nan"), "snapshot.controller_state.credit_ms"),
        ("controller_state", "credit_ms", -0.5, "snapshot.controller_state.credit_ms"),
    ],
)
def test_a_controller_out_of_range(
    spec: WorldSpec, data: bytes, part: str, field: str, value: Any, mention: str
) -> None:
    refuses(spec, forged(data, lambda header: header[part].update({field: value})), mention)


@pytest.mark.parametrize(
    ("index", "changes", "mention"),
    [
        (0, {"shape": [5]}, "action: expected shape [4]"),
        (1, {"shape": [4, 4]}, "latent: expected shape"),
        (1, {"shape": [2**40, 2**40, 2**40]}, "latent: expected shape"),
        (1, {"shape": [-4, 2, -2]}, "latent: expected shape"),
        (2, {"shape": [2, 4, 2, 4]}, "key_0: expected shape [3, 4, 2, 4]"),
        (3, {"shape": [0, 4, 2, 4]}, "value_0: expected shape"),
        (1, {"dtype": "<f8"}, "latent: expected dtype '<f4'"),
        (1, {"dtype": "|O"}, "latent: expected dtype"),
        (1, {"name": "action"}, "snapshot.arrays"),
    ],
)
def test_other_shapes(spec: WorldSpec, data: bytes, index: int, changes: Header, mention: str) -> None:
    refuses(spec, forged(data, lambda header: header["arrays"][index].update(changes)), mention)


@pytest.mark.parametrize("name", ["action", "latent", "key_0", "value_1"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_would_poison_every_later_frame(spec: WorldSpec, data: bytes, name: str, value: float) -> None:
    header, body = split(data)
    start = 0
    for array in header["arrays"]:
        if array["name"] == name:
            break
        start += 4 * int(np.prod(array["shape"]))
    poisoned = body[: start + 4] + struct.pack("<f", value) + body[start + 8 :]
    refuses(spec, forged(data, lambda header: None, poisoned), f"snapshot.arrays.{name}: must be finite")
