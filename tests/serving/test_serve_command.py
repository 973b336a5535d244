"""`dsa serve` as a process: ready, watched, refused, drained."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import dsa_runtime
from dsa_runtime import Recording, ServerGoneError, Session, Tick, World, connect
from dsa_runtime.serving import keys
from tests.command_line import Run, run_dsa
from tests.serving.peer import Peer
from tests.serving.serve_process import PATIENCE_S, ServeProcess, keys_at

AS_FIRST_PROCESS = ("unshare", "--pid", "--fork", "--kill-child")


def ipc(folder: Path) -> str:
    folder.mkdir(mode=0o700, exist_ok=True)
    return f"ipc://{folder}/s"


def get(address: str, path: str) -> tuple[int, str]:
    """Status and text of the endpoint."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=PATIENCE_S) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def redraw(session: Session, ticks: list[Tick], actions: list[int]) -> None:
    """A lone session draws the same frames from the same actions and steps."""
    for tick, action in zip(ticks, actions, strict=True):
        np.testing.assert_array_equal(session.step(action, math.inf, steps=tick.steps).pixels, tick.pixels)


@pytest.fixture(scope="module")
def running(tiny_package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    """A server that no test ends."""
    address = ipc(tmp_path_factory.mktemp("served") / "s")
    arguments = ("--bind", address, "--threads", 1, "--metrics", "0", "--log", "json", "--max-sessions", 2)
    with ServeProcess(tiny_package, *arguments) as server:
        yield server


@pytest.fixture
def dsa(capsys: pytest.CaptureFixture[str], tiny_package: Path) -> Run:
    """Run `dsa serve` on the tiny world, for what it refuses: exit status, stdout, stderr."""

    return partial(run_dsa, capsys, "serve")


def test_it_says_when_it_is_ready_and_ends_by_itself(tiny_package: Path, tmp_path: Path) -> None:
    address = ipc(tmp_path / "s")
    command = [sys.executable, "-m", "dsa_runtime.cli", "serve", str(tiny_package), "--bind", address, "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith(f"ready: tiny at {address}, epoch "), line
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (0, "")
    assert out.startswith("ended after ")


def test_metrics_health_and_logs_tell_what_it_does(running: ServeProcess, tiny_world: World) -> None:
    assert running.ready["worlds"] == ["tiny"]
    with connect(running.address) as server, server.session(5) as session:
        ticks = [session.step(action, math.inf) for action in (1, 2, 3)]
        late = session.step(0, 1e-3)
        assert late.status == "late"
        with server.session(1), pytest.raises(dsa_runtime.BusyError):
            server.session(2)
        text = get(running.ready["metrics"], "/metrics")[1]
    with tiny_world.session(5) as lone:
        redraw(lone, [*ticks, late], [1, 2, 3, 0])
    for line in (
        'dsa_ticks_total{status="ok"} 3.0',
        'dsa_ticks_total{status="late"} 1.0',
        f"dsa_steps_total {sum(tick.steps for tick in [*ticks, late])}.0",
        "dsa_sessions 1.0",
        "dsa_sessions_opened_total 2.0",
        'dsa_opens_refused_total{code="capacity"} 1.0',
        'dsa_requests_total{code="ok",type="step"} 4.0',
    ):
        assert line in text.splitlines(), text
    assert get(running.ready["metrics"], "/healthz") == (200, "ok\n")
    events = [json.loads(line)["event"] for line in running.errors().splitlines()]
    assert {"client said hello", "session opened", "session refused"} <= set(events)


def test_a_second_server_at_the_same_path_is_refused(running: ServeProcess, dsa: Run, tiny_package: Path) -> None:
    status, out, err = dsa(tiny_package, "--bind", running.address)
    assert (status, out) == (2, "")
    assert err == f"dsa serve: address {running.address}: in use by another server; stop it or choose another one\n"
    with connect(running.address) as server:
        assert server.ping() > 0, "the first one is still there"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--bind", "tcp://0.0.0.0:*"), "needs keys"),
        (("--bind", "tcp://*:5577"), "needs keys"),
        (("--bind", "tcp://127.0.0.1:*", "--publish", "tcp://0.0.0.0:*"), "needs keys"),
        (("--bind", "5577"), "expected tcp://HOST:PORT or ipc"),
        (("--bind", "tcp://127.0.0.1:*", "--allow", "list"), "--curve"),
        (("--bind", "tcp://127.0.0.1:*", "--curve", "nobody"), "no such key"),
        (("--bind", "tcp://127.0.0.1:*", "--metrics", "example.org:80"), "expected HOST:PORT"),
        (("--bind", "tcp://127.0.0.1:*", "--record", "/dev/null"), "--record /dev/null"),
        (("--lease-s", "0"), "greater than 0"),
        (("--drain-s", "inf"), "greater than 0"),
        (("--max-sessions", "0"), "at least 1"),
        (("--quality", "0.5"), "quality"),
    ],
)
def test_what_is_unsafe_or_impossible_is_refused_in_one_line(
    dsa: Run, tiny_package: Path, arguments: tuple[str, ...], problem: str
) -> None:
    status, out, err = dsa(tiny_package, *arguments, "--threads", 1)
    assert (status, out) == (2, "")
    assert err.startswith("dsa serve") and err.count("\n") == 1
    assert problem in err


def test_two_worlds_of_one_name_are_refused(dsa: Run, tiny_package: Path) -> None:
    status, _, err = dsa(tiny_package, tiny_package, "--bind", "tcp://127.0.0.1:*", "--threads", 1)
    assert status == 2
    assert "name 'tiny' already" in err


def test_keys_decide_who_is_served(
    tiny_package: Path, tmp_path: Path, tiny_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("server", "robot", "stranger", "impostor"):
        keys.new_key(name)
    keys.allow("robot")
    arguments = ("--bind", "tcp://0.0.0.0:*", "--curve", "server", "--threads", 1)
    with ServeProcess(tiny_package, *arguments, env=keys_at(tmp_path)) as server:
        address = server.address.replace("0.0.0.0", "127.0.0.1")
        for key, server_key in (("stranger", "server"), ("robot", "impostor"), (None, None)):
            with pytest.raises(ServerGoneError, match="no answer"):
                connect(address, key=key, server_key=server_key, timeout_ms=300)
        with connect(address, key="robot", server_key="server") as connection, connection.session(5) as session:
            ticks = [session.step(action, math.inf) for action in (1, 2)]
        keys.allow("stranger")
        with connect(address, key="stranger", server_key="server") as connection:
            assert connection.ping() > 0
        assert "not on the allow-list" in server.errors()
    with tiny_world.session(5) as lone:
        redraw(lone, ticks, [1, 2])


def test_sigterm_under_load_hands_every_session_back(tiny_package: Path, tmp_path: Path, tiny_world: World) -> None:
    """Four players that never rest and one that does: each gets its session, and it is where the player saw it last."""
    ready = threading.Semaphore(0)

    def play(seed: int) -> tuple[list[Tick], bytes]:
        ticks: list[Tick] = []
        with connect(server.address) as connection:
            session = connection.session(seed)
            try:
                while True:
                    ticks.append(session.step(len(ticks) % 4, math.inf))
                    if len(ticks) == 3:
                        ready.release()
            except ServerGoneError as error:
                assert error.code == "draining"
                assert error.snapshot is not None
                return ticks, error.snapshot

    bind = ("--bind", ipc(tmp_path / "s"), "--threads", 1)
    records = tmp_path / "records"
    with (
        ServeProcess(tiny_package, *bind, "--record", records, "--metrics", "0", "--drain-s", PATIENCE_S) as server,
        connect(server.address) as connection,
    ):
        idle = connection.session(9)
        first = idle.step(1, math.inf)
        results: dict[int, tuple[list[Tick], bytes]] = {}
        players = [threading.Thread(target=lambda seed=seed: results.update({seed: play(seed)})) for seed in range(4)]
        for player in players:
            player.start()
        for _ in players:
            assert ready.acquire(timeout=PATIENCE_S)
        server.terminate()
        for player in players:
            player.join(PATIENCE_S)
        assert get(server.ready["metrics"], "/healthz") == (503, "draining\n"), "one session is still to be fetched"
        with pytest.raises(dsa_runtime.DsaError, match="about to end"):
            connection.session(3)
        with pytest.raises(ServerGoneError) as gone:
            idle.step(2, math.inf)
        assert server.end()[0] == 0
    results[9] = [first], gone.value.snapshot or b""
    assert len(results) == 5
    for seed, (ticks, snapshot) in results.items():
        with tiny_world.session(seed) as lone, tiny_world.session() as restored:
            redraw(lone, ticks, [1] if seed == 9 else [index % 4 for index in range(len(ticks))])
            restored.restore(snapshot)
            assert (restored.seed, restored.tick) == (seed, len(ticks))
            for action in (1, 3):
                goes_on = restored.step(action, math.inf, steps=2)
                np.testing.assert_array_equal(goes_on.pixels, lone.step(action, math.inf, steps=2).pixels)
    lengths = {(found := Recording.load(path)).seed: len(found.decisions) for path in records.iterdir()}
    assert lengths == {seed: len(ticks) for seed, (ticks, _) in results.items()}


def test_a_session_that_nobody_fetches_holds_it_up_for_so_long_only(tiny_package: Path, tmp_path: Path) -> None:
    with (
        ServeProcess(tiny_package, "--bind", ipc(tmp_path / "s"), "--threads", 1, "--drain-s", 0.2) as server,
        connect(server.address) as connection,
    ):
        connection.session(1).step(1)
        server.terminate()
        assert server.end()[0] == 0


def test_a_second_signal_ends_it_at_once(tiny_package: Path, tmp_path: Path) -> None:
    arguments = ("--bind", ipc(tmp_path / "s"), "--threads", 1, "--metrics", "0", "--drain-s", 10 * PATIENCE_S)
    with ServeProcess(tiny_package, *arguments) as server, connect(server.address) as connection:
        session = connection.session(1, lease_ms=600_000)
        server.terminate()
        assert server.process.poll() is None
        while get(server.ready["metrics"], "/healthz")[0] == 200:
            pass
        server.terminate()
        assert server.end()[0] == -signal.SIGTERM
        assert session.tick == 0


def test_a_second_signal_also_ends_the_first_process_of_a_container(tiny_package: Path, tmp_path: Path) -> None:
    """Which the system protects from signals that it does not handle itself."""
    if not shutil.which("unshare") or subprocess.run([*AS_FIRST_PROCESS, "true"], capture_output=True).returncode:
        pytest.skip("no right to begin a process namespace")
    arguments = ("--bind", ipc(tmp_path / "s"), "--threads", 1, "--drain-s", 10 * PATIENCE_S)
    with (
        ServeProcess(tiny_package, *arguments, prefix=AS_FIRST_PROCESS) as server,
        Peer.greeted(server.address) as peer,
    ):
        peer.open(lease_ms=600_000)
        outer = server.process.pid
        pid = int(Path(f"/proc/{outer}/task/{outer}/children").read_text())
        os.kill(pid, signal.SIGTERM)
        assert peer.receive().type == "handover"
        os.kill(pid, signal.SIGTERM)
        assert server.end()[0] == 128 + signal.SIGTERM


def test_systemd_hears_when_it_is_ready_alive_and_about_to_end(tiny_package: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(PATIENCE_S)
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "90000"}
        with ServeProcess(tiny_package, "--bind", ipc(tmp_path / "s"), "--threads", 1, env=env) as server:
            heard = {systemd.recv(64) for _ in range(4)}
            assert heard == {b"READY=1", b"WATCHDOG=1"}
            os.kill(server.process.pid, signal.SIGTERM)
            while systemd.recv(64) != b"STOPPING=1":
                pass
            assert server.end()[0] == 0
