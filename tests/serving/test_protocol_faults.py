"""Rude, confused and unlucky peers. Nothing they do stops the server, moves a world twice, or spoils a frame."""

from __future__ import annotations

import itertools
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq

from dsa_runtime import World
from dsa_runtime.serving.observer import Observer
from dsa_runtime.serving.server import OPTIONS, Server
from dsa_runtime.serving.wire import CODES, MAGIC, Message
from tests.serving.golden_messages import hexadecimal
from tests.serving.held import Held
from tests.serving.peer import Peer, pixels, refusal
from tests.serving.serve import serve

ACTIONS = [0, 1, 3, 2, 2, 0]
FUZZED = 10_000
AT_ONCE = 60  # fewer than the replies that the server keeps for one client


def lone_frames(world: World, actions: list[int], seed: int = 7) -> list[np.ndarray]:
    with world.session(seed) as lone:
        return [lone.step(action, math.inf).pixels for action in actions]


# Retries.


def test_a_retry_gets_the_stored_reply_and_moves_nothing(served: Server, peer: Peer, tiny_world: World) -> None:
    sid = peer.open(7)
    drawn = []
    for index, action in enumerate(ACTIONS):
        first = peer.step(sid, action, id=100 + index)
        with Peer.greeted(served.address) as other:  # as after a reconnection
            again = other.step(sid, action, id=100 + index)
        assert again.fields == first.fields
        np.testing.assert_array_equal(pixels(again), pixels(first))
        drawn.append(pixels(first))
    np.testing.assert_array_equal(drawn, lone_frames(tiny_world, ACTIONS))


def test_a_retry_of_an_error_gets_the_error(peer: Peer) -> None:
    sid = peer.open(7)
    first = peer.ask("step", 5, sid=sid, action=9)
    assert peer.ask("step", 5, sid=sid, action=1).fields == first.fields
    assert peer.ask("step", 6, sid=sid, action=1).fields["tick"] == 0


def test_a_retry_of_something_long_answered_is_refused(peer: Peer) -> None:
    sid = peer.open(7)
    peer.step(sid, id=10)
    peer.step(sid, id=11)
    for id in (10, 1, 0):
        assert refusal(peer.step(sid, id=id)) == ("invalid", "unknown")
    assert peer.step(sid, id=2**64 - 1).fields["tick"] == 2
    assert refusal(peer.step(sid, id=12)) == ("invalid", "unknown")


def test_ids_begin_at_one(peer: Peer) -> None:
    assert refusal(peer.step(peer.open(7), id=0)) == ("invalid", "unknown")


def test_a_retry_while_it_runs_is_answered_to_the_newest_asker(
    served: Server, peer: Peer, held: Held, tiny_world: World
) -> None:
    sid = peer.open(7)
    peer.send("step", 50, sid=sid, action=3, budget_us=-1)
    held.wait()
    with Peer.greeted(served.address) as other:
        other.send("step", 50, sid=sid, action=3, budget_us=-1)
        assert other.ask("ping").type == "pong"  # it has been read
        held.let_go()
        reply = other.receive()
    assert (reply.id, reply.fields["tick"]) == (50, 0)
    np.testing.assert_array_equal([pixels(reply)], lone_frames(tiny_world, [3]))
    assert not peer.hears(100)
    assert peer.step(sid, id=51).fields["tick"] == 1


def test_a_second_request_in_flight_is_busy_and_can_be_asked_again(peer: Peer, held: Held) -> None:
    sid = peer.open(7)
    peer.send("step", 20, sid=sid, action=1, budget_us=-1)
    held.wait()
    for kind in ("step", "snapshot", "reset", "fork", "configure"):
        reply = peer.ask(kind, 21, sid=sid, action=1)
        assert refusal(reply) == ("busy", "no") and reply.fields["retry"] is True
    assert refusal(peer.step(sid, id=19)) == ("invalid", "unknown")
    assert peer.ask("ping", sid=sid).type == "pong"
    held.let_go()
    assert peer.receive().id == 20
    assert peer.step(sid, id=21).fields["tick"] == 1


def test_an_open_is_retried_while_it_runs(
    served: Server, peer: Peer, tiny_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    real = World.session

    def slow(world: World, *arguments: Any, **settings: Any) -> Any:
        begun.set()
        assert go_on.wait(30)
        return real(world, *arguments, **settings)

    monkeypatch.setattr(World, "session", slow)
    peer.send("open", 1, key=5)
    assert begun.wait(30)
    with Peer.greeted(served.address) as other:
        other.send("open", 77, key=5)
        assert other.ask("stats").fields["sessions"] == 1
        go_on.set()
        assert other.receive().id == 77
    assert peer.ask("stats").fields["opened"] == 1


def test_a_fork_with_the_key_of_an_open_that_still_runs(
    served: Server, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sid = peer.open()
    begun, go_on = threading.Event(), threading.Event()
    real = World.session

    def slow(world: World, *arguments: Any, **settings: Any) -> Any:
        begun.set()
        assert go_on.wait(30)
        return real(world, *arguments, **settings)

    monkeypatch.setattr(World, "session", slow)
    with Peer.greeted(served.address) as other:
        other.send("open", 77, key=5)
        assert begun.wait(30)
        reply = peer.ask("fork", sid=sid, key=5)
        go_on.set()
        assert refusal(reply) == ("invalid", "no")
        assert other.receive().type == "opened"


def test_a_stale_epoch_runs_nothing(peer: Peer) -> None:
    sid = peer.open(7)
    peer.epoch ^= 1
    for kind in ("step", "open", "close", "ping", "stats", "specs"):
        assert refusal(peer.ask(kind, sid=sid, key=1, action=1)) == ("epoch", "no")
    peer.epoch ^= 1
    assert peer.step(sid).fields["tick"] == 0
    assert peer.ask("stats").fields["sessions"] == 1


# What is no message.


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("step", {"sid": -1}), ("step", {"sid": "7"}), ("step", {}), ("reset", {"seed": -1}),
        ("rewind", {"ticks": "1"}), ("fork", {"n": 0, "key": 1}), ("fork", {"n": 10**9, "key": 1}), ("fork", {"n": 1}),
        ("step", {"action": 1, "budget_us": 0}), ("step", {"action": 1, "budget_us": 1.5}),
        ("step", {"action": 1, "budget_us": -2}), ("step", {"action": 1, "budget_us": 2**60}),
    ],
)  # fmt: skip
def test_fields_of_the_wrong_kind_are_named(peer: Peer, kind: str, fields: dict[str, Any]) -> None:
    sid = peer.open(7)
    reply = peer.ask(kind, **({"sid": sid, **fields} if fields else {}))
    assert refusal(reply) == ("malformed", "no")
    assert reply.fields["msg"].split(":")[0] in {"sid", "seed", "ticks", "n", "key", "budget_us"}
    assert peer.step(sid).fields["tick"] == 0


@pytest.mark.parametrize(
    "parts", [[b""], [b"", b""], [b"DSA1"], [b"DSA1", b""], [b"\0" * 200], [b"GET / HTTP/1.1\r\n\r\n"]]
)
def test_what_is_no_message_is_answered(peer: Peer, parts: list[bytes]) -> None:
    peer.send_parts(parts)
    reply = peer.receive()
    assert refusal(reply) == ("malformed", "no") and reply.id == 0
    assert peer.ask("ping").type == "pong"


def test_a_message_that_is_too_large_costs_its_sender_the_connection_and_nobody_else(
    tiny_world: World, tmp_path: Path
) -> None:
    with serve(tiny_world, tmp_path, message_bytes=1 << 20) as server, Peer.greeted(server.address) as peer:
        sid = peer.open(7)
        with Peer.greeted(server.address) as rude:
            monitor = rude.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            rude.send_parts([MAGIC, b"\0" * (1 << 20), b"\0" * ((1 << 20) + 1)])
            assert monitor.poll(30_000)
            rude.socket.disable_monitor()
            monitor.close()
        assert peer.step(sid).fields["tick"] == 0


def fuzz(rng: random.Random, epoch: int, sids: list[int]) -> list[bytes]:
    """A message that is wrong in some way, or by chance is not."""
    how = rng.randrange(5)
    if how == 0:
        return [rng.randbytes(rng.randrange(80)) for _ in range(rng.randrange(1, 5))]
    if how == 1:  # a good one, damaged
        parts = [bytearray.fromhex(part) for part in rng.choice(list(GOLDEN.values()))]
        for _ in range(rng.randrange(1, 4)):
            part = rng.choice(parts)
            part[rng.randrange(len(part))] ^= 1 << rng.randrange(8)
        return [bytes(part) for part in parts]
    if how == 2:  # cut short, or with parts twice
        parts = [bytearray.fromhex(part) for part in rng.choice(list(GOLDEN.values()))]
        index = rng.randrange(len(parts))
        parts[index] = parts[index][: rng.randrange(len(parts[index]))]
        return [bytes(part) for part in rng.choices(parts, k=len(parts))]
    # Well-formed, of this life and about its sessions, with values of all kinds.
    id = next(GROWING) if rng.random() < 0.8 else rng.randrange(2 ** rng.randrange(1, 20))
    sid = rng.choice([*sids, rng.randrange(2**64)])
    header: dict[str, Any] = {"t": rng.choice(TYPES), "id": id, "epoch": epoch, "sid": sid}
    for name, usual in FIELDS.get(header["t"], {}).items():
        if rng.random() < 0.9:
            header[name] = usual(rng) if rng.random() < 0.8 else rng.choice(VALUES)(rng)
    if rng.random() < 0.2:
        header[rng.choice(["colour", "bufs", "epoch", "id", "t"])] = rng.choice(VALUES)(rng)
    parts = [MAGIC, msgpack.packb(header)]
    if rng.random() < 0.1:
        header["bufs"] = [{"n": "snapshot", "d": "u1", "s": [40], "at": "part"}]
        parts = [MAGIC, msgpack.packb(header), rng.choice([rng.randbytes(40), b"DSASNAP\n" + rng.randbytes(32)])]
    return parts


GOLDEN = hexadecimal()
GROWING = itertools.count(1000)
TYPES = [
    "hello", "specs", "open", "step", "step", "step", "reset", "restore", "rewind", "snapshot", "fork", "configure",
    "cancel", "ping", "stats", "launch", "handover", "_serve", "",
]  # fmt: skip
Draw = Callable[[random.Random], Any]


def key(rng: random.Random) -> int:
    return rng.randrange(1, 9)


def controller(rng: random.Random) -> dict[str, Any]:
    return {"policy": rng.choice(["gain", "fixed", "paper"]), "max_steps": rng.randrange(1, 5)}


def frames(rng: random.Random) -> str:
    return rng.choice(["part", "shm", "jpeg", "png"])


FIELDS: dict[str, dict[str, Draw]] = {
    "hello": {"min": lambda rng: 1, "max": lambda rng: 1, "features": lambda rng: ["shm"], "client": str},
    "specs": {"world": lambda rng: "tiny"},
    "open": {"key": key, "seed": key, "controller": controller, "frames": frames, "history": lambda rng: 2},
    "step": {"action": lambda rng: rng.randrange(4), "budget_us": lambda rng: -1, "steps": lambda rng: 2},
    "reset": {"seed": key},
    "rewind": {"ticks": lambda rng: 0},
    "fork": {"n": lambda rng: 1, "key": key},
    "configure": {"controller": controller, "frames": frames, "quality": lambda rng: 80},
}
VALUES: list[Draw] = [
    lambda rng: None,
    lambda rng: rng.random() < 0.5,
    lambda rng: rng.randrange(6),
    lambda rng: rng.randrange(-(2**63), 2**64),
    lambda rng: rng.uniform(-2, 2),
    lambda rng: rng.choice(["tiny", "part", "shm", "png", "jpeg", "raise", "repeat", "\0", "x" * 300, "é"]),
    lambda rng: rng.randbytes(rng.randrange(20)),
    lambda rng: [rng.randrange(3) for _ in range(rng.randrange(5))],
    lambda rng: [[[]], "a", 1.5],
    lambda rng: {"policy": rng.choice(["gain", "fixed", "paper", 7]), "max_steps": rng.randrange(-1, 5)},
    lambda rng: {"target_load": rng.uniform(-1, 2)},
    lambda rng: {"rescue": rng.choice([True, None, 1]), "x": {}},
]


def test_ten_thousand_malformed_messages(tiny_world: World, tmp_path: Path) -> None:
    """Beside them somebody plays, and sees every frame as it should be."""
    rng, failures = random.Random(20), []

    class Watch(Observer):
        def failed(self, what: str, incident: int, error: Exception) -> None:
            failures.append((what, error))

    settings = {"max_sessions": 64, "lease_ms": 60_000, "load_most": math.inf, "history_most": 4}
    with (
        serve(tiny_world, tmp_path, observer=Watch(), **settings) as server,
        Peer.greeted(server.address) as player,
        Peer.greeted(server.address) as rude,
    ):
        sid = player.open(7)
        sids: list[int] = []
        answers: Counter[str] = Counter()
        drawn, actions = [], []
        for index in range(0, FUZZED, AT_ONCE):
            for _ in range(AT_ONCE):
                rude.send_parts(fuzz(rng, server.epoch, sids))
            if index % 600 == 0:
                for used in sids[:-4]:
                    rude.send("close", sid=used)
                rude.send("open", key=1000 + index, on_miss="repeat", lease_ms=60_000)
                actions.append(rng.randrange(4))
                drawn.append(pixels(player.step(sid, actions[-1])))
            last = rude.send("ping", 2**63 + index)
            while (reply := rude.receive()).id != last:
                answers[name_of(reply)] += 1
                sids += [reply.fields["sid"]] if reply.type == "opened" else []
        assert player.ask("ping", sid=sid).type == "pong"
        assert player.ask("stats").fields["sessions"] <= 64
    assert failures == []
    np.testing.assert_array_equal(drawn, lone_frames(tiny_world, actions))
    assert set(answers) - set(CODES) <= {
        "welcome", "specs", "opened", "frame", "picture", "snapshot", "forked", "configured", "closed", "cancelled",
        "pong", "stats",
    }  # fmt: skip
    # The generator reaches what it is meant to reach, not only the first check.
    reached = {"malformed", "invalid", "unsupported", "session", "epoch", "frame", "picture", "snapshot", "opened"}
    assert reached <= set(answers), answers


def name_of(reply: Message) -> str:
    return str(reply.fields["code"]) if reply.type == "error" else reply.type


# Peers that go away.


def test_a_client_that_never_reads_blocks_nobody(tiny_world: World, served: Server, peer: Peer) -> None:
    sid = peer.open(7)
    with Peer.greeted(served.address) as deaf:
        deaf.socket.setsockopt(zmq.RCVHWM, 1)
        for _ in range(2000):
            deaf.send("specs")
        drawn = [pixels(peer.step(sid, action)) for action in ACTIONS]
        np.testing.assert_array_equal(drawn, lone_frames(tiny_world, ACTIONS))
        assert peer.ask("stats").type == "stats"


def test_a_client_that_floods_the_server_and_goes_away(
    tiny_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While nothing is read. libzmq can abort the process then, see the server's options."""
    stalled, go_on = threading.Event(), threading.Event()

    class Stall(Observer):
        def greeted(self, client: str) -> None:
            if client == "stall":
                stalled.set()
                assert go_on.wait(30)

    monkeypatch.setitem(OPTIONS, zmq.RCVHWM, 4)  # or it would take thousands
    with serve(tiny_world, tmp_path, observer=Stall()) as server, Peer.greeted(server.address) as peer:
        with Peer.greeted(server.address) as rude:
            peer.send("hello", min=1, max=1, client="stall")
            assert stalled.wait(30)
            for _ in range(500):
                rude.send("stats")
        time.sleep(1.5)  # longer than a heartbeat would be
        go_on.set()
        assert peer.receive().type == "welcome"
        assert peer.ask("ping").type == "pong"


def test_a_client_with_all_the_sessions_loses_no_reply(tiny_world: World, tmp_path: Path) -> None:
    """However many of them come at once, as long as there is one for each session."""
    with serve(tiny_world, tmp_path, max_sessions=100) as server, Peer.greeted(server.address) as peer:
        for _ in range(5):
            ids = [peer.send("ping") for _ in range(100)]
            assert [peer.receive().id for _ in ids] == ids


def test_a_client_that_goes_away_in_the_middle_loses_nothing(served: Server, peer: Peer, held: Held) -> None:
    sid = peer.open(7)
    with Peer.greeted(served.address) as gone:
        gone.send("step", 30, sid=sid, action=1, budget_us=-1)
        held.wait()
    held.let_go()
    while True:  # whether it runs still or is stored by now
        reply = peer.step(sid, id=30)
        if reply.type == "frame":
            break
    assert reply.fields["tick"] == 0
    assert peer.step(sid, id=31).fields["tick"] == 1


def test_an_expired_lease(peer: Peer) -> None:
    sid = peer.open(7, lease_ms=1)
    while peer.ask("stats").fields["reaped"] == 0:
        pass
    for kind in ("step", "ping", "snapshot", "cancel"):
        assert refusal(peer.ask(kind, sid=sid, action=1)) == ("session", "no")
    assert peer.ask("stats").fields["sessions"] == 0
