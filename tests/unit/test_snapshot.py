"""Snapshot: bytes that hold a session's state exactly, in the layout the module describes; the fingerprint."""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import numpy as np
import pytest

import dsa_runtime
from dsa_runtime import Controller, WorldSpec
from dsa_runtime.controller import ControllerState
from dsa_runtime.snapshot import Snapshot, decode, encode
from dsa_runtime.spec import FileEntry, ScheduleSpec
from dsa_runtime.state import SessionState
from tests.tiny_world import HEAD_DIM, HEADS, LAYERS, TOKENS, WINDOW


@pytest.fixture(scope="module")
def spec(tiny_package: Path) -> WorldSpec:
    return WorldSpec.from_json((tiny_package / "world.json").read_text())


def make_snapshot(spec: WorldSpec, **changes: Any) -> Snapshot:
    """A snapshot of random values."""
    rng = np.random.default_rng(1)
    frames = tuple(
        rng.normal(size=(spec.cache.window, *spec.cache.slot_shape)).astype(np.float32)
        for _ in range(2 * spec.cache.layers)
    )
    state: dict[str, Any] = {
        "seed": 2**64 - 1,
        "tick": 12345678901,
        "controller": ControllerState(0.1, 2.5, 0.75),
        "action": spec.action_space.encode(2),
        "latent": rng.normal(size=spec.latent.shape).astype(np.float32),
    }
    controller = Controller(policy="gain", target_steps=1.5, max_steps=3, quantile=0.9)
    return Snapshot(SessionState(**(state | changes)), controller, frames)


def arrays(snapshot: Snapshot) -> list[np.ndarray]:
    return [snapshot.state.action, snapshot.state.latent, *snapshot.frames]


def test_round_trip_is_exact(spec: WorldSpec) -> None:
    before = make_snapshot(spec)
    after = decode(spec, encode(spec, before))
    assert after.controller == before.controller
    assert after.state.controller == before.state.controller
    assert (after.state.seed, after.state.tick) == (before.state.seed, before.state.tick)
    for left, right in zip(arrays(before), arrays(after), strict=True):
        assert right.dtype == np.float32 and right.dtype.isnative
        assert left.shape == right.shape
        assert left.tobytes() == right.tobytes()


@pytest.mark.parametrize(
    "controller",
    [Controller(), Controller("paper"), Controller("fixed", max_steps=2), Controller(threshold=1, credit_ms=4)],
)
@pytest.mark.parametrize("state", [ControllerState(), ControllerState(0.3, 0.0, 1e-300)])
def test_every_controller_comes_back(spec: WorldSpec, controller: Controller, state: ControllerState) -> None:
    snapshot = dataclasses.replace(make_snapshot(spec, controller=state), controller=controller)
    after = decode(spec, encode(spec, snapshot))
    assert (after.controller, after.state.controller) == (controller, state)


def test_odd_numbers_keep_their_bits(spec: WorldSpec) -> None:
    latent = np.zeros(spec.latent.shape, np.float32)
    latent.flat[:4] = [-0.0, 1e-45, np.finfo(np.float32).max, np.nextafter(np.float32(1), np.float32(2))]
    after = decode(spec, encode(spec, make_snapshot(spec, latent=latent)))
    assert after.state.latent.tobytes() == latent.tobytes()


def test_arrays_may_lie_anyhow_in_memory(spec: WorldSpec) -> None:
    snapshot = make_snapshot(spec)
    turned = dataclasses.replace(snapshot, frames=tuple(np.asfortranarray(frame) for frame in snapshot.frames))
    assert not turned.frames[0].flags.c_contiguous
    assert encode(spec, turned) == encode(spec, snapshot)


def test_the_layout_is_the_documented_one(spec: WorldSpec) -> None:
    """Read with nothing but the module's description, as another program would."""
    snapshot = make_snapshot(spec)
    data = encode(spec, snapshot)
    assert data[:8] == b"DSASNAP\n"
    version, length = struct.unpack("<II", data[8:16])
    assert version == 1
    header = msgpack.unpackb(data[16 : 16 + length])
    assert (header["world"], header["version"]) == (spec.name, spec.version)
    assert header["fingerprint"] == spec.fingerprint
    assert header["sdk"] == dsa_runtime.__version__
    assert (header["seed"], header["tick"]) == (2**64 - 1, 12345678901)
    assert header["controller"]["policy"] == "gain"
    assert header["controller_state"]["previous_score"] == 0.1
    body = data[16 + length : -32]
    for listed, array in zip(header["arrays"], arrays(snapshot), strict=True):
        assert (listed["dtype"], listed["shape"]) == ("<f4", list(array.shape))
        assert body[: array.nbytes] == array.astype("<f4").tobytes()
        body = body[array.nbytes :]
    assert body == b""
    assert [listed["name"] for listed in header["arrays"][:4]] == ["action", "latent", "key_0", "value_0"]
    assert header["arrays"][2]["shape"] == [WINDOW, TOKENS, HEADS, HEAD_DIM]
    assert len(header["arrays"]) == 2 + 2 * LAYERS
    assert data[-32:] == hashlib.blake2b(data[:-32], digest_size=32).digest()


def test_bytes_in_a_buffer_are_read_and_not_kept(spec: WorldSpec) -> None:
    data = encode(spec, make_snapshot(spec))
    for buffer in (bytearray(data), memoryview(data)):
        assert encode(spec, decode(spec, buffer)) == data  # type: ignore[arg-type]
    buffer = bytearray(data)
    after = decode(spec, buffer)  # type: ignore[arg-type]
    buffer[:] = bytes(len(buffer))
    assert encode(spec, after) == data


def test_texts_about_a_world_do_not_change_its_fingerprint(spec: WorldSpec) -> None:
    files = {**spec.files, "card.md": FileEntry("0" * 64, 1), "notes.md": FileEntry("1" * 64, 1)}
    other = dataclasses.replace(spec, files=files, description="other", licence="MIT", provenance={})
    assert other.fingerprint == spec.fingerprint


def test_whatever_changes_frames_changes_the_fingerprint(spec: WorldSpec) -> None:
    weights = {**spec.files, "weights.bin": FileEntry("0" * 64, spec.files["weights.bin"].bytes)}
    swapped = {**spec.graphs, "denoise": spec.graphs["commit"], "commit": spec.graphs["denoise"]}
    others = [
        dataclasses.replace(spec, files=weights),
        dataclasses.replace(spec, files={**spec.files, "more.bin": FileEntry("0" * 64, 1)}),
        dataclasses.replace(spec, graphs=swapped),
        dataclasses.replace(spec, schedule=ScheduleSpec((1.0, 0.75, 0.5, 0.125), 0.0)),
        dataclasses.replace(spec, cache=dataclasses.replace(spec.cache, sink=1)),
        dataclasses.replace(spec, action_space=dsa_runtime.MultiBinary(4, spec.action_space.names)),
    ]
    assert len({spec.fingerprint, *(other.fingerprint for other in others)}) == len(others) + 1


def test_the_fingerprint_is_a_fixed_function(spec: WorldSpec) -> None:
    """Snapshots and recordings hold it, so another SDK version must come to the same."""
    known = dataclasses.replace(spec, files={file: FileEntry("ab" * 32, 7) for file in sorted(spec.files)[::-1]})
    assert known.fingerprint == "a4bd3282ae02ae2afb5bda5bdf827ca8"
