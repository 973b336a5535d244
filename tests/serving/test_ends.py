"""How a session at a server ends: closed, or its lease runs out."""

from __future__ import annotations

from pathlib import Path

from dsa_runtime import World
from dsa_runtime.serving.observer import Observer
from tests.serving.held import Held
from tests.serving.peer import Peer, refusal
from tests.serving.serve import serve


def test_closing_is_idempotent_and_final(peer: Peer) -> None:
    sid = peer.open()
    for _ in range(2):
        assert peer.ask("close", sid=sid).type == "closed"
    for kind in ("step", "ping", "cancel", "snapshot"):
        assert refusal(peer.ask(kind, sid=sid)) == ("session", "no")


def test_a_lease_is_renewed_by_pings_and_then_runs_out(tiny_world: World, tmp_path: Path) -> None:
    reaped: list[int] = []

    class Watch(Observer):
        def reaped(self, sid: int) -> None:
            reaped.append(sid)

    with serve(tiny_world, tmp_path, observer=Watch()) as server, Peer.greeted(server.address) as peer:
        opened = peer.ask("open", key=1, frames="shm", lease_ms=1000)
        sid, path = opened.fields["sid"], Path(opened.fields["ring"]["path"])
        for _ in range(8):
            assert not peer.hears(200)
            assert peer.ask("ping", sid=sid).type == "pong"
        while not reaped:
            assert not peer.hears(100)
        assert refusal(peer.ask("step", sid=sid, action=1)) == ("session", "no")
        assert peer.ask("stats").fields["reaped"] == 1
    assert reaped == [sid] and not path.exists()


def test_a_running_request_is_not_reaped(peer: Peer, held: Held) -> None:
    sid = peer.open(lease_ms=50)
    peer.send("step", sid=sid, action=1, budget_us=-1)
    held.wait()
    assert not peer.hears(200)
    held.let_go()
    assert peer.receive().type == "frame"
