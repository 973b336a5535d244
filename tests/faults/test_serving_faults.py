"""Processes that die or freeze, disks that are full, networks that fail: no tick is lost or made twice, and no frame is
another than a session by itself draws. The server lives on.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic, sleep

import pytest

from dsa_runtime import Recording, ServerGoneError, World, connect
from dsa_runtime.serving import keys
from dsa_runtime.serving.client import Connection
from tests.faults.bad_link import NEAR_HOST, BadLink, missing
from tests.faults.remote_player import (
    Line,
    Player,
    RemotePlayer,
    action_of,
    check_against_lone_session,
    line_of,
    sha,
)
from tests.serving.peer import Peer, pixels
from tests.serving.serve_process import PATIENCE_S, ServeProcess

LACKING = missing()
SMALL_FILES = ("sh", "-c", 'ulimit -f 32; exec "$@"', "sh")  # of 16 or 32 KiB, as the shell counts


@pytest.fixture
def address(tmp_path: Path) -> str:
    (tmp_path / "s").mkdir(mode=0o700)
    return f"ipc://{tmp_path}/s/s"


@pytest.fixture
def serve(tiny_package: Path, address: str) -> Callable[..., ServeProcess]:
    """A server at `address`, and another one there when that is dead."""

    def make(*arguments: object, prefix: tuple[str, ...] = ()) -> ServeProcess:
        return ServeProcess(tiny_package, "--bind", address, "--threads", 1, *arguments, prefix=prefix)

    return make


def until(true: Callable[[], bool]) -> None:
    """Wait for what another process is about to do."""
    deadline = monotonic() + PATIENCE_S
    while not true():
        assert monotonic() < deadline, "it did not happen"
        sleep(0.01)


def play(connection: Connection, seed: int, ticks: int) -> list[Line]:
    """A game in this thread."""
    with connection.session(seed) as session:
        return [line_of(session.step(action_of(index), math.inf)) for index in range(ticks)]


def is_stopped(process: int) -> bool:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def still_serves(address: str, world: World) -> None:
    """A newcomer is served, with the right frames."""
    with connect(address) as newcomer:
        check_against_lone_session(world, 77, play(newcomer, 77, 3))


def test_a_server_that_is_killed_again_and_again(
    serve: Callable[..., ServeProcess], address: str, tiny_world: World
) -> None:
    """The player never rests, so a step is under way whenever that happens."""
    with ExitStack() as stack:
        server = stack.enter_context(serve())
        connection = stack.enter_context(connect(address))
        session = stack.enter_context(connection.session(4, recover=True, checkpoint_ticks=7))
        with Player(session) as player:
            player.reach(10)
            server.kill()
            with serve() as second:
                player.reach(20)
                second.kill()
            stack.enter_context(serve())
            player.reach(20)
        still_serves(address, tiny_world)
    check_against_lone_session(tiny_world, 4, player.lines)


def test_a_server_that_freezes_in_a_step_and_is_killed(
    serve: Callable[..., ServeProcess], address: str, tiny_world: World
) -> None:
    """The step has been sent, and nobody knows whether it was made."""
    with ExitStack() as stack:
        server = stack.enter_context(serve())
        connection = stack.enter_context(connect(address))
        session = stack.enter_context(connection.session(4, recover=True, checkpoint_ticks=2))
        with Player(session) as player:
            player.reach(5)
            server.process.send_signal(signal.SIGSTOP)
            until(lambda: is_stopped(server.process.pid))
            seen = len(player.lines)
            sleep(0.1)  # for a reply that was on its way, and the next request
            assert len(player.lines) <= seen + 1, "nobody answers"
            server.kill()
            stack.enter_context(serve())
            player.reach(5)
    check_against_lone_session(tiny_world, 4, player.lines)


def test_a_session_without_recovery_is_lost_with_its_server_and_says_so(
    serve: Callable[..., ServeProcess], address: str, tiny_world: World
) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(serve())
        connection = stack.enter_context(connect(address))
        session = stack.enter_context(connection.session(4))
        first = session.step(action_of(0), math.inf)
        saved = session.snapshot()
        server.kill()
        with serve():
            with pytest.raises(ServerGoneError, match="restarted"):
                session.step(action_of(1), math.inf)
            with pytest.raises(ServerGoneError):
                session.step(action_of(1), math.inf)
            with connection.session() as successor:
                successor.restore(saved)
                second = successor.step(action_of(1), math.inf)
    check_against_lone_session(tiny_world, 4, [line_of(first), line_of(second)])


def test_a_server_that_drains_while_another_takes_over(
    serve: Callable[..., ServeProcess], address: str, tiny_world: World
) -> None:
    """What the first one hands back is enough: there is no other snapshot."""
    with ExitStack() as stack:
        server = stack.enter_context(serve())
        connection = stack.enter_context(connect(address))
        session = stack.enter_context(connection.session(4, recover=True, checkpoint_ticks=1 << 20))
        with Player(session) as player:
            player.reach(10)
            server.terminate()
            assert server.end()[0] == 0
            stack.enter_context(serve())
            player.reach(10)
            assert connection.stats()["ticks"] < len(player.lines), "it did not begin anew"
    check_against_lone_session(tiny_world, 4, player.lines)


def test_a_client_that_is_killed(serve: Callable[..., ServeProcess], address: str, tiny_world: World) -> None:
    """Its session ends with its lease, and the one beside it notices nothing."""
    with serve(), connect(address) as connection:
        with RemotePlayer(address, "--seed", 1, "--lease-ms", 300) as player:
            player.reach(5)
            player.process.kill()
            check_against_lone_session(tiny_world, 2, play(connection, 2, 20))
        until(lambda: connection.stats()["sessions"] == 0)
        assert connection.stats()["reaped"] == 1
        still_serves(address, tiny_world)
    check_against_lone_session(tiny_world, 1, player.lines)


@pytest.mark.parametrize("lease_ms", [300, 600_000])
def test_a_client_that_freezes(
    serve: Callable[..., ServeProcess], address: str, tiny_world: World, lease_ms: int
) -> None:
    """Beyond its lease it makes its session again; before, it just goes on. The others play meanwhile."""
    options = ("--seed", 1, "--lease-ms", lease_ms, "--checkpoint-ticks", 7)
    with serve(), connect(address) as connection, RemotePlayer(address, *options) as player:
        player.reach(5)
        player.process.send_signal(signal.SIGSTOP)
        check_against_lone_session(tiny_world, 2, play(connection, 2, 20))
        if lease_ms < 1000:
            until(lambda: connection.stats()["reaped"] == 1)
        player.process.send_signal(signal.SIGCONT)
        player.reach(20)
        player.finish()
        assert connection.stats()["reaped"] == (1 if lease_ms < 1000 else 0)
    check_against_lone_session(tiny_world, 1, player.lines)


def test_a_client_that_never_reads(serve: Callable[..., ServeProcess], address: str, tiny_world: World) -> None:
    """Far more replies than anybody keeps for it: they are dropped, and what it missed it can ask for again."""
    with serve(), connect(address) as connection, Peer.greeted(address) as rude:
        sid = rude.open(3)
        frame = rude.step(sid, action_of(0), id=1)
        for _ in range(5000):
            rude.send("specs", 99)
        rude.send("step", 2, sid=sid, action=action_of(1), budget_us=-1)
        check_against_lone_session(tiny_world, 2, play(connection, 2, 20))
        until(lambda: connection.stats()["ticks"] == 22)
        with Peer.greeted(address) as reformed:
            again = reformed.step(sid, action_of(1), id=2)
        assert connection.stats()["ticks"] == 22, "the second step was made once"
    lines = [Line(f.fields["tick"], f.fields["steps"], f.fields["status"], sha(pixels(f))) for f in (frame, again)]
    check_against_lone_session(tiny_world, 3, lines)


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of 16 KiB."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", folder], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("limit", ["disk", "file size"])
def test_recordings_that_find_no_room(
    serve: Callable[..., ServeProcess], address: str, tiny_world: World, tmp_path: Path, limit: str
) -> None:
    """The long one is lost, and said to be; play goes on, and a short one is kept."""
    records = tmp_path / "records"
    with ExitStack() as stack:
        if limit == "disk":
            if os.geteuid():
                pytest.skip("a disk that is full needs root, to mount a small one")
            stack.enter_context(small_disk(records))
        prefix = () if limit == "disk" else SMALL_FILES
        server = stack.enter_context(serve("--record", records, prefix=prefix))
        connection = stack.enter_context(connect(address))
        check_against_lone_session(tiny_world, 1, play(connection, 1, 300))
        check_against_lone_session(tiny_world, 2, play(connection, 2, 10))
        until(lambda: connection.stats()["sessions"] == 0)
        assert "was lost" in server.errors()
        server.terminate()
        assert server.end()[0] == 0
        (kept,) = records.iterdir()
        recording = Recording.load(kept)
        assert (recording.seed, len(recording.decisions)) == (2, 10)


@pytest.fixture
def link() -> Iterator[BadLink]:
    with BadLink() as link:
        yield link


@pytest.fixture
def near_server(
    link: BadLink, tiny_package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ServeProcess]:
    """A server at the near end of a bad link. It needs keys to be there."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("server", "robot"):
        keys.new_key(name)
    keys.allow("robot")
    arguments = ("--bind", f"tcp://{NEAR_HOST}:5577", "--curve", "server", "--threads", 1)
    with ServeProcess(tiny_package, *arguments, prefix=("ip", "netns", "exec", link.near)) as server:
        yield server
        assert server.process.poll() is None


@pytest.fixture
def far_player(link: BadLink, near_server: ServeProcess) -> Callable[..., RemotePlayer]:
    """Players at the far end."""

    def make(*options: object) -> RemotePlayer:
        keys = ("--key", "robot", "--server-key", "server")
        return RemotePlayer(near_server.address, *keys, *options, prefix=("ip", "netns", "exec", link.far))

    return make


@pytest.mark.skipif(LACKING is not None, reason=LACKING or "")
def test_a_network_that_delays_and_loses(
    link: BadLink, far_player: Callable[..., RemotePlayer], tiny_world: World
) -> None:
    link.delay_s, link.loss = 0.005, 0.03
    with far_player("--seed", 6) as player:
        player.reach(30)
        player.finish()
    assert link.lost > 0
    assert player.server_ticks == len(player.lines)
    check_against_lone_session(tiny_world, 6, player.lines)


@pytest.mark.skipif(LACKING is not None, reason=LACKING or "")
def test_a_network_that_is_cut(link: BadLink, far_player: Callable[..., RemotePlayer], tiny_world: World) -> None:
    """For long enough that both sides take each other for dead. The session waits at the server."""
    with far_player("--seed", 6, "--lease-ms", 600_000) as player:
        player.reach(10)
        link.cut = True
        until(lambda: link.lost >= 20)
        link.cut = False
        player.reach(10)
        player.finish()
    assert player.server_ticks == len(player.lines)
    check_against_lone_session(tiny_world, 6, player.lines)


@pytest.mark.skipif(LACKING is not None, reason=LACKING or "")
def test_a_network_that_is_cut_for_longer_than_a_lease(
    link: BadLink, near_server: ServeProcess, far_player: Callable[..., RemotePlayer], tiny_world: World
) -> None:
    """What has lapsed meanwhile is made again."""
    with far_player("--seed", 6, "--lease-ms", 500, "--checkpoint-ticks", 7) as player:
        player.reach(10)
        link.cut = True
        until(lambda: "reaped" in near_server.errors())
        link.cut = False
        player.reach(10)
        player.finish()
    check_against_lone_session(tiny_world, 6, player.lines)
