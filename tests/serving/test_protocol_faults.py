"""Rude, confused and unlucky peers. Nothing they do stops the server, moves a world twice, or spoils a frame."""

from __future__ import annotations

import math
import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from dsa_runtime import World
from dsa_runtime.serving.observer import Observer
from dsa_runtime.serving.server import OPTIONS, Server
from dsa_runtime.serving.wire import CODES, MAGIC, Message
from tests.serving.drawn import ACTIONS, alone
from tests.serving.fuzz import fuzz
from tests.serving.held import Held
from tests.serving.peer import Peer, pixels, refusal
from tests.serving.serve import serve

FUZZED = 10_000
AT_ONCE = 60  # fewer than the replies that the server keeps for one client


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
    np.testing.assert_array_equal(drawn, alone(tiny_world, actions))
    assert set(answers) - set(CODES) <= {
        "welcome", "specs", "opened", "frame", "picture", "snapshot", "forked", "configured", "closed", "cancelled",
        "pong", "stats",
    }  # fmt: skip
    # The generator reaches what it is meant to reach, not only the first check.
    reached = {"malformed", "invalid", "unsupported", "session", "epoch", "frame", "picture", "snapshot", "opened"}
    assert reached <= set(answers), answers


def name_of(reply: Message) -> str:
    return str(reply.fields["code"]) if reply.type == "error" else reply.type


def test_a_client_that_never_reads_blocks_nobody(tiny_world: World, served: Server, peer: Peer) -> None:
    sid = peer.open(7)
    with Peer.greeted(served.address) as deaf:
        deaf.socket.setsockopt(zmq.RCVHWM, 1)
        for _ in range(2000):
            deaf.send("specs")
        drawn = [pixels(peer.step(sid, action)) for action in ACTIONS]
        np.testing.assert_array_equal(drawn, alone(tiny_world))
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
