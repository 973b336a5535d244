"""How much is too much."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from dsa_runtime import World
from dsa_runtime.errors import ServingError
from dsa_runtime.serving.admission import Admission
from dsa_runtime.serving.config import ServerConfig
from dsa_runtime.serving.wire import WireError
from dsa_runtime.spec import WorldSpec
from dsa_runtime.tick import LatencyMs, Tick
from tests.serving.peer import Peer, refusal
from tests.serving.serve import serve

CONFIG = ServerConfig("tcp://127.0.0.1:*")


def a_tick(denoise_ms: tuple[float, ...], decode_ms: float = 0.0) -> Tick:
    latency = LatencyMs(wait=90.0, denoise=denoise_ms, abandoned=0.0, decode=decode_ms, sdk=9.0, total=0.0)
    none = np.zeros((1, 1, 3), np.uint8)
    return Tick(none, 0, 0, len(denoise_ms), 1.0, None, "ceiling", math.inf, 0.0, 0.0, "ok", latency)


@pytest.fixture
def world(tiny_world: World) -> WorldSpec:
    """20 ticks a second: a period of 50 ms."""
    return tiny_world.spec


def played(world: WorldSpec, ends_ms: list[float], denoise_ms: tuple[float, ...] = (6.0, 2.0)) -> Admission:
    """After ticks that took 8 ms to denoise, 1 to decode and 1 to commit, and ended at these times."""
    admission = Admission(CONFIG)
    for ended_ms in ends_ms:
        admission.observe(world, a_tick(denoise_ms, 1.0), 1.0, ended_ms)
    return admission


def test_ticks_that_do_not_overlap_count_in_full(world: WorldSpec) -> None:
    admission = played(world, [1000.0 + 50 * n for n in range(40)])
    assert admission.load([world]) == pytest.approx(10 / 50)
    assert admission.load([world] * 5) == pytest.approx(1.0)


def test_ticks_of_one_batch_share_their_time(world: WorldSpec) -> None:
    admission = played(world, [1000.0 + 50 * (n // 4) for n in range(40)])
    assert admission.load([world] * 4) == pytest.approx(10 / 50)


def test_ticks_that_overlap_in_part(world: WorldSpec) -> None:
    admission = played(world, [1000.0 + 5 * n for n in range(400)])
    assert admission.load([world] * 10) == pytest.approx(1.0)


def test_sessions_beyond_the_time_there_is_are_refused_in_words(world: WorldSpec) -> None:
    admission = played(world, [1000.0 + 50 * n for n in range(40)])
    admission.check([world] * 4, world)
    admission.check([world] * 2, world, 3)
    with pytest.raises(
        WireError, match=r"6 sessions would use an estimated 120% of it.*10\.0 ms of every 50\.0 ms"
    ) as e:
        admission.check([world] * 5, world)
    assert e.value.code == "busy"
    with pytest.raises(WireError, match="120%"):
        admission.check([world] * 3, world, 3)


def test_a_world_that_was_hardly_played_counts_as_nothing(world: WorldSpec) -> None:
    admission = played(world, [1000.0 + 50 * n for n in range(15)])
    assert admission.load([world] * 60) == 0


def test_one_pause_of_the_machine_does_not_fill_it(world: WorldSpec) -> None:
    admission = played(world, [1000.0 + 50 * n for n in range(400)])
    admission.observe(world, a_tick((51_000.0,)), 1.0, 72_000.0)
    admission.check([world] * 3, world)


def test_ticks_that_nothing_was_run_for_are_left_out(world: WorldSpec) -> None:
    admission = played(world, [1000.0 + 50 * n for n in range(40)])
    for n in range(40):
        admission.observe(world, a_tick(()), 1.0, 9000.0 + n)
    assert admission.load([world]) == pytest.approx(10 / 50)


def test_a_server_refuses_with_a_clear_busy(tiny_world: World, tmp_path: Path) -> None:
    with serve(tiny_world, tmp_path, load_most=1e-6) as server, Peer.greeted(server.address) as peer:
        sid = peer.open()
        for _ in range(20):
            peer.step(sid)
        reply = peer.ask("open", key=1)
        assert refusal(reply) == ("busy", "no") and reply.fields["retry"] is True
        assert "2 sessions would use an estimated" in reply.fields["msg"]
        assert peer.ask("stats").fields["load"] > 0
        assert peer.step(sid).type == "frame"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_sessions", 0), ("max_sessions", 5000), ("lease_ms", 0), ("lease_ms", 10**6), ("history_most", -1),
        ("load_most", 0.0), ("load_most", math.nan), ("message_bytes", 100), ("drain_s", -1.0), ("drain_s", math.inf),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense(name: str, value: float) -> None:
    with pytest.raises(ServingError, match=f"^{name}: "):
        dataclasses.replace(CONFIG, **{name: value})
