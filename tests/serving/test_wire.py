"""Messages to parts and back, and what is refused on the way."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsa_runtime.serving import wire
from dsa_runtime.serving.wire import Buffer, Message, WireError, error_message, pack, unpack
from dsa_runtime.serving.wire_tick import budget_us, frame_fields, picture_buffer, pictures_of, raw_pixels, tick_of
from dsa_runtime.tick import LatencyMs, Tick
from tests.serving.golden_messages import FILE, MESSAGES, hexadecimal

HELLO = {"t": "hello", "id": 1, "min": 1, "max": 1}
FRAME = {"n": "frame", "d": "u1", "s": [2, 3], "at": "part", "enc": "raw"}


def plain(message: Message) -> Message:
    """With buffers that compare by their bytes."""
    buffers = tuple(
        Buffer(b.name, b.dtype, b.shape, None if b.data is None else bytes(b.data), b.encoding, b.slot, b.seq)
        for b in message.buffers
    )
    return Message(message.type, message.id, dict(message.fields), buffers)


def test_messages_have_exactly_the_golden_bytes() -> None:
    golden = json.loads(FILE.read_text())
    packed = hexadecimal()
    assert packed.keys() == golden.keys()
    for name, parts in golden.items():
        assert packed[name] == parts, name


@pytest.mark.parametrize("name", MESSAGES)
def test_golden_bytes_are_read_as_the_message(name: str) -> None:
    parts = [bytes.fromhex(part) for part in json.loads(FILE.read_text())[name]]
    assert plain(unpack(parts)) == plain(MESSAGES[name])


def test_unknown_keys_are_kept_for_whoever_knows_them() -> None:
    message = unpack([wire.MAGIC, msgpack.packb({**HELLO, "colour": "red"})])
    assert message.fields["colour"] == "red" and message.type == "hello"


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ([], "part 0"),
        ([b""], "part 0"),
        ([b"DSA2", msgpack.packb(HELLO)], "part 0"),
        ([b"DSA1x", msgpack.packb(HELLO)], "part 0"),
        ([b"DSA1"], "part 1: missing"),
        ([b"DSA1", b""], "part 1: not a msgpack map"),
        ([b"DSA1", b"\xc1"], "part 1: not a msgpack map"),
        ([b"DSA1", msgpack.packb(HELLO) + b"\x00"], "part 1: not a msgpack map"),
        ([b"DSA1", msgpack.packb([1, 2])], "part 1: expected a msgpack map"),
        ([b"DSA1", msgpack.packb({**HELLO, "x": b"\0" * wire.HEADER_BYTES})], "65536 is the most"),
        ([b"DSA1", msgpack.packb({**HELLO, 3: 4})], "part 1: not a msgpack map"),
        ([b"DSA1", msgpack.packb({**HELLO, "x": {b"y": 1}})], "strings as keys"),
        ([b"DSA1", msgpack.packb({**HELLO, "x": msgpack.ExtType(5, b"a")})], "extension type 5"),
        ([b"DSA1", msgpack.packb({**HELLO, "x": msgpack.Timestamp(5)})], "Timestamp"),
        ([b"DSA1", msgpack.packb({**HELLO, "x": math.nan})], "finite"),
        ([b"DSA1", msgpack.packb({**HELLO, "x": [[-math.inf]]})], "finite"),
        ([b"DSA1", msgpack.packb({**HELLO, "x": json.loads("[" * 20 + "]" * 20)})], "deep"),
        ([b"DSA1", b"\x81\xa1x" + b"\x91" * 5000 + b"\x90"], "part 1: not a msgpack map"),
        ([b"DSA1", b"\x81\xa1x\xdd\xff\xff\xff\xff"], "part 1: not a msgpack map"),
        ([b"DSA1", b"\x81\xa1t\xa2\xff\xfe"], "part 1: not a msgpack map"),  # no UTF-8
        ([b"DSA1", msgpack.packb({"t": "hello"})], "id: "),
        ([b"DSA1", msgpack.packb({**HELLO, "id": -1})], "id: "),
        ([b"DSA1", msgpack.packb({**HELLO, "id": True})], "id: "),
        ([b"DSA1", msgpack.packb({**HELLO, "id": 1.0})], "id: "),
        ([b"DSA1", msgpack.packb({"id": 1})], "t: "),
        ([b"DSA1", msgpack.packb({**HELLO, "t": 7})], "t: "),
        ([b"DSA1", msgpack.packb(HELLO), b"x"], "1 parts more"),
        ([b"DSA1", msgpack.packb({**HELLO, "bufs": 7})], "bufs: expected"),
        ([b"DSA1", msgpack.packb({**HELLO, "bufs": [FRAME] * 9}), *[b"123456"] * 9], "at most 8"),
        ([b"DSA1", msgpack.packb({**HELLO, "bufs": [7]})], r"bufs\[0\]: expected a map"),
        ([b"DSA1", msgpack.packb({**HELLO, "bufs": [FRAME]})], "its part is missing"),
        ([b"DSA1", msgpack.packb({**HELLO, "bufs": [FRAME]}), b"12345"], "expected 6 bytes, got 5"),
        ([b"DSA1", msgpack.packb({**HELLO, "bufs": [{**FRAME, "n": 1}]}), b"123456"], r"bufs\[0\]\.n"),
        ([b"DSA1", msgpack.packb({**HELLO, "bufs": [{**FRAME, "d": "O"}]}), b"123456"], r"bufs\[0\]\.d"),
        ([b"DSA1", msgpack.packb({**HELLO, "bufs": [{**FRAME, "d": []}]}), b"123456"], r"bufs\[0\]\.d"),
        ([b"DSA1", msgpack.packb({**HELLO, "bufs": [{**FRAME, "s": [-2, -3]}]}), b"123456"], r"bufs\[0\]\.s"),
        ([b"DSA1", msgpack.packb({**HELLO, "bufs": [{**FRAME, "s": [1] * 9}]}), b"1"], r"bufs\[0\]\.s"),
        ([b"DSA1", msgpack.packb({**HELLO, "bufs": [{**FRAME, "s": [2**64 - 1] * 8}]}), b"1"], "expected .* bytes"),
        ([b"DSA1", msgpack.packb({**HELLO, "bufs": [{**FRAME, "enc": "gif"}]}), b"123456"], r"bufs\[0\]\.enc"),
        ([b"DSA1", msgpack.packb({**HELLO, "bufs": [{**FRAME, "enc": {}}]}), b"123456"], r"bufs\[0\]\.enc"),
        ([b"DSA1", msgpack.packb({**HELLO, "bufs": [{**FRAME, "at": "disk"}]}), b"123456"], r"bufs\[0\]\.at"),
        ([b"DSA1", msgpack.packb({**HELLO, "bufs": [{**FRAME, "at": "shm", "slot": -1}]})], r"bufs\[0\]\.slot"),
    ],
)  # fmt: skip
def test_what_is_no_message(parts: list[bytes], problem: str) -> None:
    with pytest.raises(WireError, match=problem) as caught:
        unpack(parts)
    assert caught.value.code == "malformed"


def test_the_id_of_a_malformed_message_is_known_if_it_can_be_read() -> None:
    with pytest.raises(WireError) as caught:
        unpack([b"DSA1", msgpack.packb({"id": 12, "t": 5})])
    assert caught.value.id == 12


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    st.text(max_size=8),
    st.integers(0, 2**64 - 1),
    st.dictionaries(st.text(max_size=6).filter(lambda key: key not in ("t", "id", "bufs")), PLAIN, max_size=6),
    st.lists(st.binary(max_size=20), max_size=8),
)
def test_what_was_packed_is_unpacked(type: str, id: int, fields: dict[str, Any], blocks: list[bytes]) -> None:
    buffers = tuple(Buffer.of_bytes(f"b{index}", block) for index, block in enumerate(blocks))
    message = Message(type, id, fields, buffers)
    try:
        found = plain(unpack(pack(message)))
    except WireError as error:
        assert "deep" in str(error)
        return
    assert found == message


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=64) | st.just(b"DSA1"), max_size=5))
def test_random_parts_are_refused_in_one_way(parts: list[bytes]) -> None:
    try:
        unpack(parts)
    except WireError as error:
        assert error.code == "malformed" and str(error)


def test_damaged_messages_are_read_or_refused_in_one_way() -> None:
    """Bits of real messages, turned over."""
    rng = random.Random(6)
    for packed in hexadecimal().values():
        for _ in range(60):
            parts = [bytearray.fromhex(part) for part in packed]
            part = rng.choice(parts)
            part[rng.randrange(len(part))] ^= 1 << rng.randrange(8)
            try:
                unpack(parts)
            except WireError as error:
                assert error.code == "malformed" and len(str(error)) < 500


def test_a_map_that_is_too_large_is_not_packed() -> None:
    with pytest.raises(ValueError, match="65536 is the most"):
        pack(Message("error", 1, {"msg": "x" * wire.HEADER_BYTES}))


def test_errors_have_numbers_of_their_own_and_a_limited_length() -> None:
    assert len(set(wire.CODES.values())) == len(wire.CODES)
    reply = error_message(WireError("draining", "x" * 100_000, id=3, extra={"tick": 5}))
    assert reply.id == 3 and len(reply.fields["msg"]) == 500
    assert (reply.fields["num"], reply.fields["retry"], reply.fields["tick"]) == (12, True, 5)


STACK = np.arange(36, dtype=np.uint8).reshape(3, 2, 2, 3)


def a_tick(**changes: Any) -> Tick:
    latency = LatencyMs(wait=0.25, denoise=(2.5, 2.0), abandoned=0.5, decode=0.125, sdk=0.0625, total=5.4375)
    values: dict[str, Any] = {
        "pixels": np.arange(12, dtype=np.uint8).reshape(2, 2, 3), "tick": 5, "frame_tick": 5, "steps": 2,
        "confidence": 0.75, "threshold": 0.5, "stopped_by": "confidence", "budget_ms": 33.0, "credit_ms": 1.0,
        "slack_ms": 28.0, "status": "ok", "latency_ms": latency, "confidences": (0.25, 0.75),
    }  # fmt: skip
    return Tick(**{**values, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"threshold": None, "budget_ms": math.inf, "slack_ms": math.inf, "stopped_by": "ceiling"},
        {
            "frame_tick": -1,
            "status": "repeated",
            "steps": 0,
            "slack_ms": -0.5,
            "stopped_by": "deadline",
            "confidences": (),
        },
        {"frames": STACK, "pixels": STACK[-1]},
    ],
)
def test_a_tick_survives_the_wire(changes: dict[str, Any]) -> None:
    tick = a_tick(**changes)
    sent = Message("frame", 1, frame_fields(tick, tick.budget_ms, 0.0), (picture_buffer(pictures_of(tick)),))
    got = unpack([bytes(part) for part in pack(sent)])
    found = tick_of(got.fields, raw_pixels(got.buffer("frame")))
    np.testing.assert_array_equal(found.pixels, tick.pixels)
    np.testing.assert_array_equal(found.frames, tick.frames)
    found.pixels[0, 0, 0] = 9  # it is the caller's
    for name in vars(tick).keys() - {"pixels", "frames", "latency_ms"}:
        assert getattr(found, name) == getattr(tick, name), name
    assert found.latency_ms["denoise"] == (2.5, 2.0)
    assert found.latency_ms["sdk"] == pytest.approx(0.0625, abs=6e-4)


def test_a_server_that_does_not_say_every_confidence_is_understood() -> None:
    fields = frame_fields(a_tick(), 33.0, 0.0)
    del fields["confidences"]
    found = tick_of(fields, a_tick().pixels)
    assert (found.confidence, found.confidences) == (0.75, ())


def test_the_wait_at_the_server_counts() -> None:
    fields = frame_fields(a_tick(), 33.0, 1.5)
    found = tick_of(fields, a_tick().pixels)
    assert (found.latency_ms["wait"], found.latency_ms["total"]) == (1.75, pytest.approx(6.9375, abs=6e-4))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tick", -1), ("tick", "5"), ("steps", None), ("confidence", "high"), ("status", "fine"), ("stopped_by", 3),
        ("budget_us", 1.5), ("budget_us", -2), ("slack_us", []), ("latency_us", 7), ("latency_us", {}),
        ("confidences", 0.5), ("confidences", [0.5]), ("confidences", [0.5, "high"]),
    ],
)  # fmt: skip
def test_a_frame_with_a_bad_field_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(WireError, match=f"^{name}: " if value != {} else "^queue: "):
        tick_of({**frame_fields(a_tick(), 33.0, 0.0), name: value}, a_tick().pixels)


@pytest.mark.parametrize(("budget_ms", "expected"), [(math.inf, -1), (33.3333, 33333), (1e-9, 1)])
def test_budgets(budget_ms: float, expected: int) -> None:
    assert budget_us(budget_ms) == expected
