"""The benchmarks of serving: their arithmetic by hand, and each of them once, short, on tiny worlds."""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsa_runtime import World, connect, load_world
from tests.bench import bench_serving, bench_soak, npy_peer, soak_clients
from tests.bench.serving_rounds import Lane, Round, compare, quantiles, ratio_text, summary, text
from tests.bench.soak_levels import Level, leaks, look, trend
from tests.bench.wire_programs import ProgramFailed, round_trip_us
from tests.serving.serve import serve

linux = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")

LEVEL = Level(at_s=0, rss_mb=100.0, threads=10, files=20, sockets=5, rings=0, sessions=0, slots=0, ticks=0)


def played(p50: float, p99: float) -> Round:
    added = {"p50": p50, "p99": p99, "p99_9": p99}
    return Round({name: value + 1 for name, value in added.items()}, dict.fromkeys(added, 1.0), added)


def test_quantiles_were_really_measured() -> None:
    assert quantiles(np.arange(1.0, 1001.0)) == {"p50": 500.0, "p99": 990.0, "p99_9": 999.0}


def test_ratios_are_those_of_each_round() -> None:
    ours, theirs = Lane("python", "8x8", "shm", False), Lane("npy", "8x8", "npy", False)
    rounds = {
        theirs: [played(1, 2), played(10, 20), played(100, 200)],  # a machine that gets slower
        ours: [played(0.5, 2), played(4, 30), played(60, 100)],
        Lane("c", "8x8", "part", True): [played(1, 2)] * 3,
    }

    (found,) = compare(rounds)

    assert found["ratio"]["p50"] == 0.5
    assert found["ratios_by_round"]["p50"] == [0.5, 0.4, 0.6]
    assert found["ratio"]["p99"] == 1.0
    assert "8x8" in ratio_text([found])


def test_a_row_has_the_medians_of_its_rounds() -> None:
    lane = Lane("c", "8x8", "part", True)
    rounds = [played(1, 2), played(3, 9), played(2, 40)]

    row = summary(lane, [replace(one, added={"p50": one.added["p50"]}) for one in rounds])

    assert row["added_ms"] == {"p50": 2.0}
    assert row["round_trip_ms"]["p99"] == 10.0
    assert "~2.000" in text([row]).splitlines()[-1]


def test_a_program_says_its_round_trips() -> None:
    line = "ticks=3 recoveries=0 round_trip_us_p50=200 round_trip_us_p99=1500"

    assert round_trip_us([sys.executable, "-c"], [f"print({line!r})"], {}) == {"50": 200, "99": 1500}
    for program in (f"print({line.replace('=0', '=1')!r})", f"print({line!r}); exit(3)"):
        with pytest.raises(ProgramFailed):
            round_trip_us([sys.executable, "-c"], [program], {})


def test_the_other_side_packs_arrays_as_files() -> None:
    frame = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)

    packed = npy_peer.pack({"data": {"frame": frame, "total_ms": 1.5}, "action": np.asarray(3)})
    found = npy_peer.unpack(packed)

    assert b"NUMPY" in packed
    assert np.array_equal(found["data"]["frame"], frame) and found["data"]["frame"].flags.writeable
    assert (found["data"]["total_ms"], int(found["action"])) == (1.5, 3)


def test_the_other_side_plays_the_same_world(tiny_world: World) -> None:
    server = npy_peer.NpyServer({"tiny": tiny_world})
    threading.Thread(target=server.run, daemon=True).start()
    with npy_peer.NpyClient(server.address) as client, tiny_world.session(5) as session:
        client.ask("reset", world="tiny", seed=5)
        for action in (1, 2, 1):
            reply = client.ask("step", world="tiny", action=np.asarray(action), steps=2)
            assert np.array_equal(reply["frame"], session.step(action, float("inf"), steps=2).pixels)
        assert reply["tick"] == 2 and reply["total_ms"] > 0
        with pytest.raises(RuntimeError):
            client.ask("step", world="tiny", action=np.asarray(99), steps=2)


def test_the_worlds_have_the_size_and_the_rate_that_are_asked_for(tmp_path: Path) -> None:
    package = bench_serving.write_world(tmp_path, "32x16", 90.0)

    with load_world(package, threads=1) as world, world.session() as session:
        assert (world.spec.name, world.spec.frame.fps) == ("32x16", 90.0)
        pixels = session.step(1, steps=1).pixels
        assert pixels.shape == (16, 32, 3)
        assert len(np.unique(pixels)) > 1


@pytest.mark.slow
def test_serving_bench(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "serving.json"

    status = bench_serving.main(
        ["--hz", "0", "--ticks", "5", "--rounds", "1", "--sizes", "16x8", "--clients", "python", "c",
         "--json", str(file)]
    )  # fmt: skip

    line = capsys.readouterr().out.rstrip("\n").splitlines()[-1]
    assert status == 0
    assert file.read_text() == line + "\n"
    document = json.loads(line)
    assert document["command"].startswith("python -m tests.bench.bench_serving --hz 0")
    rows = {(row["client"], row["frames"], row["curve"]): row for row in document["rows"]}
    ways = [(frames, curve) for curve in (False, True) for frames in ("part", "shm")]
    clients = ["python"] if "c" in document["not_built"] else ["python", "c"]
    assert set(rows) == {("npy", "npy", False), *((client, *way) for client in clients for way in ways)}
    for row in rows.values():
        assert row["tick_ms"]["p50"] > 0
        assert row["added_ms"]["p99"] < row["round_trip_ms"]["p99"]
        if row["client"] not in clients[1:]:
            assert 0 < row["added_ms"]["p50"] <= row["added_ms"]["p99"] == row["added_ms"]["p99_9"]
    assert [(one["frames"], one["curve"]) for one in document["ratios"]] == ways
    assert all(one["ratio"]["p50"] > 0 for one in document["ratios"])


def test_a_trend_is_that_of_memory_over_time() -> None:
    noise = np.random.default_rng(0).normal(0, 0.5, 400)
    levels = [replace(LEVEL, at_s=5.0 * i, rss_mb=100 + 12 * 5 * i / 3600 + noise[i]) for i in range(400)]

    found = trend(levels)

    assert found is not None
    assert abs(found.slope - 12) < found.error < 1.5
    assert trend(levels[:2]) is None


def test_of_neighbours_that_are_alike_a_trend_is_not_surer_than_it_should_be() -> None:
    waves = [replace(LEVEL, at_s=5.0 * i, rss_mb=100 + 10 * np.sin(i / 12)) for i in range(400)]

    found = trend(waves)

    assert found is not None
    assert abs(found.slope) < found.error


def test_a_leak_is_what_there_is_more_of() -> None:
    assert leaks(LEVEL, replace(LEVEL, rss_mb=900.0, ticks=5, files=19, threads=13), kept_threads=3) == {}
    for name in ("sessions", "slots", "rings", "sockets", "files"):
        assert leaks(LEVEL, replace(LEVEL, **{name: 21}), kept_threads=3) == {name: [getattr(LEVEL, name), 21]}
    assert leaks(LEVEL, replace(LEVEL, threads=14), kept_threads=3) == {"threads": [10, 14]}


def test_memory_counts_after_a_fifth_of_the_time() -> None:
    levels = [replace(LEVEL, at_s=float(second)) for second in range(10, 111)]

    assert [level.at_s for level in bench_soak.after_warm_up(levels)] == list(range(30, 111))


@linux
def test_a_look_sees_what_is_held(tiny_world: World, tmp_path: Path) -> None:
    with serve(tiny_world, tmp_path) as server, connect(server.address) as connection:
        before, _ = look(os.getpid(), 1.0, connection.stats())
        with connection.session(frames="shm") as session:
            session.step(1)
            held, rings = look(os.getpid(), 2.0, connection.stats())
        after, _ = look(os.getpid(), 3.0, connection.stats())

    assert (held.sessions, held.rings, held.at_s, held.ticks) == (1, 1, 2.0, 1)
    assert held.slots > before.slots == after.slots
    assert held.threads > before.threads
    assert (after.sessions, after.rings) == (before.sessions, before.rings) == (0, 0)
    assert {Path(ring).parent for ring in rings} == {tmp_path / "rings"}
    assert held.rss_mb > 1


@pytest.mark.parametrize("role", [soak_clients.play, soak_clients.desert, soak_clients.babble])
def test_what_clients_do(
    role: Callable[..., None], tiny_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak_clients, "RATES_HZ", (0.0,))
    monkeypatch.setattr(soak_clients, "ON_MISS", ("best_effort",))
    with serve(tiny_world, tmp_path, publish="tcp://127.0.0.1:*", load_most=float("inf")) as server:
        clients = soak_clients.Clients(server.address)
        if role is not soak_clients.play:
            clients.ended.set()  # it does not rest afterwards
        role(clients, np.random.default_rng(37))  # one session, in which most things happen
        with connect(server.address) as connection:
            stats = connection.stats()

    assert clients.problems == []
    if role is soak_clients.play:
        assert clients.done["sessions"] == stats["opened"] == 1
        assert all(clients.done[what] == 1 for what in ("snapshots", "restores", "cancels"))
        assert clients.done["rewinds"] + clients.done["refused rewinds"] == 1
        assert clients.done["ok"] + clients.done["late"] == stats["ticks"] > 20
        assert stats["sessions"] == 0
    elif role is soak_clients.desert:
        assert clients.done["deserted"] == stats["opened"] == 1
    else:
        assert clients.done["malformed"] == 50
        assert stats["errors"] > 0 and stats["opened"] == 0


def test_a_client_that_fails_is_a_problem() -> None:
    def fall(clients: soak_clients.Clients, rng: np.random.Generator) -> None:
        raise ValueError("over its feet")

    clients = soak_clients.Clients("tcp://127.0.0.1:1")
    clients.run(fall, 1)

    assert clients.problems == ["fall: ValueError: over its feet"]


def stay(herd: bench_soak.Herd, watch: bench_soak.Watch, options: argparse.Namespace) -> None:
    """In place of the load: a session that nobody closes."""
    watch.sample()
    session = watch._connection.session(frames="shm", lease_ms=600_000)
    session.step(1)
    watch.sample()


def soaked(given: Sequence[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> tuple[int, dict[str, Any], str]:
    file = tmp_path / "soak.json"
    status = bench_soak.main([*given, "--json", str(file)])
    out = capsys.readouterr().out.rstrip("\n")
    assert file.read_text() == out.splitlines()[-1] + "\n"
    return status, json.loads(file.read_text()), out


@linux
@pytest.mark.slow
def test_soak_bench(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_soak, "KILL_EVERY_S", 4.0)

    status, document, out = soaked(["--minutes", "0.15", "--clients", "1", "--every", "1"], capsys, tmp_path)

    assert (status, document["problems"], document["leaked"]) == (0, [], {})
    assert document["passed"] and not document["memory_judged"]
    assert document["done"]["killed clients"] >= 1 and document["done"]["sessions"] > 0
    assert document["samples"][-1]["ticks"] > document["before"]["ticks"]
    assert out.splitlines()[-2] == "passed"


@linux
@pytest.mark.slow
def test_soak_bench_of_a_server_that_keeps_something(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_soak, "load", stay)
    monkeypatch.setattr(bench_soak, "SETTLE_S", 1.0)
    monkeypatch.setattr(bench_soak, "PRELUDE_S", 1.0)

    status, document, out = soaked(["--clients", "0"], capsys, tmp_path)

    assert status == 1 and not document["passed"]
    assert {"sessions", "slots", "rings"} <= set(document["leaked"])
    assert "LEAKED sessions: 0 before, 1 after" in out
