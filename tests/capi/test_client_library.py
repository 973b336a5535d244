"""libdsa_client: the header's functions at a server, and what becomes of them when the server goes away."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsa_runtime import ActionError, CancelledError, Controller, DsaError, World, load_world
from dsa_runtime.serving import keys
from dsa_runtime.serving.wire import Message
from dsa_runtime.spec import Box, MultiBinary
from tests.capi import client
from tests.capi.client import ClientWorld
from tests.capi.conftest import PROGRAMS, run
from tests.capi.library import CSession
from tests.play import ACTIONS, play
from tests.serving.lives import Lives
from tests.serving.relay import Relay, relayed
from tests.stages import WAIT_S, Gate
from tests.tiny_world import write_tiny_world
from tests.wire_clients.serve import Fate, ServerProcess

REPEAT = 1
E_START, E_WORLD, E_GONE, E_UNSUPPORTED = -3, -7, -17, -21
PART, SHM = 1, 2
TIMEOUT_US = 2_000_000  # of tests in which a server does not come back
SANITIZED = "-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
SPACES = {
    "tiny-buttons": MultiBinary(3, ("left", "right", "fire")),
    "tiny-levers": Box((-1.0, 0.0), (1.0, 10.0), ("turn", "lift"), ("rad", "m")),
}


@pytest.fixture(scope="module", autouse=True)
def library() -> Any:
    return client.library()


@pytest.fixture(scope="module")
def expected(tiny_world: World) -> list[np.ndarray]:
    with tiny_world.session(7) as alone:
        return play(alone)


@pytest.fixture
def lives(tiny_world: World, tmp_path: Path) -> Iterator[Lives]:
    with Lives(tiny_world, tmp_path) as served:
        yield served


@pytest.fixture
def world(lives: Lives, tiny_world: World) -> Iterator[ClientWorld]:
    with ClientWorld(tiny_world.spec, lives.server.address) as far:
        yield far


@pytest.fixture(scope="module")
def server(tiny_package: Path) -> Iterator[ServerProcess]:
    """A server that no test ends."""
    with ServerProcess("tcp://127.0.0.1:*", [tiny_package]) as running:
        yield running


@pytest.fixture
def private() -> Iterator[Path]:
    """A folder for ipc sockets: only this user can enter it, and its path is short."""
    with tempfile.TemporaryDirectory(prefix="dsa-") as folder:
        yield Path(folder)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


def status_of(call: Any, *arguments: Any, **options: Any) -> int:
    """The status that a call fails with."""
    found = []
    library = client.library()

    def keep(name: str, *given: Any) -> int:
        status = int(getattr(library.lib, f"dsa_{name}")(*given))
        found.append(status)
        if status < 0:
            raise DsaError(library.ffi.string(library.lib.dsa_last_error()).decode())
        return status

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "call", keep)
        with pytest.raises(DsaError):
            call(*arguments, **options)
    return next(status for status in found if status < 0)


class TestTheLibrary:
    def test_it_exports_the_header_and_brings_no_python(self) -> None:
        path = client.built() / client.NAME
        exported = subprocess.check_output(["nm", "-D", "--defined-only", str(path)], text=True)
        header = (client.SOURCES / "dsa_runtime.h").read_text()
        assert {line.split()[-1] for line in exported.splitlines()} == set(re.findall(r"\b(dsa_\w+)\(", _plain(header)))
        dynamic = subprocess.check_output(["readelf", "-d", str(path)], text=True)
        assert "libdsa_client.so.1" in re.findall(r"SONAME.*\[(.*)\]", dynamic)
        assert not re.search(r"NEEDED.*python", dynamic)

    def test_the_cmake_project_builds_it(self, tmp_path: Path) -> None:
        done = subprocess.run(["cmake", "--version"], capture_output=True)
        if done.returncode:
            pytest.skip("no cmake (Debian: cmake)")
        subprocess.run(["cmake", "-S", str(client.SOURCES), "-B", str(tmp_path)], check=True, capture_output=True)
        subprocess.run(["cmake", "--build", str(tmp_path)], check=True, capture_output=True)
        assert (tmp_path / "libdsa_client.so.1").exists()

    @pytest.mark.parametrize("name", ["misuse", "threads", "manners"])
    def test_it_holds(self, server: ServerProcess, tmp_path: Path, name: str) -> None:
        """What it is that holds stands in the program."""
        program = client.compile_program(PROGRAMS / f"{name}.c", tmp_path / name)
        assert run(program, "tiny", DSA_SERVER=server.address) == "ok\n"

    def test_a_step_allocates_nothing_but_what_libzmq_does(self, server: ServerProcess, tmp_path: Path) -> None:
        counts = counted(server, tmp_path, 300, 0)
        assert (counts["dsa"], counts["msgpack"]) == (0, 0)

    @pytest.mark.slow
    def test_memory_stays_flat(self, server: ServerProcess, tmp_path: Path) -> None:
        counts = counted(server, tmp_path, 20_000, 500)
        assert counts["kb"] < 1024
        assert counts["sessions_kb"] < 1024


def _plain(header: str) -> str:
    without_comments = re.sub(r"/\*.*?\*/", "", header, flags=re.S)
    return re.sub(r"#define .*", "", without_comments)


def counted(server: ServerProcess, folder: Path, steps: int, sessions: int) -> dict[str, float]:
    program = client.compile_program(PROGRAMS / "client_count.c", folder / "count")
    printed = run(program, "tiny", steps, sessions, DSA_SERVER=server.address)
    return {name: float(value) for name, value in re.findall(r"(\w+)=(-?[\d.]+)", printed)}


class TestFrames:
    @pytest.mark.parametrize("frames", [PART, SHM])
    def test_they_are_those_of_a_local_session_bit_for_bit(
        self, lives: Lives, tiny_world: World, expected: list[np.ndarray], frames: int
    ) -> None:
        with ClientWorld(tiny_world.spec, lives.server.address, frames=frames) as far, far.open(7) as session:
            np.testing.assert_array_equal(play(session), expected)

    @pytest.mark.parametrize("name", SPACES)
    def test_with_every_action_space(self, tmp_path: Path, name: str) -> None:
        package, space = write_tiny_world(tmp_path / name, SPACES[name], name=name), SPACES[name]
        rng = np.random.default_rng(5)
        with load_world(package, threads=1) as near, Lives(near, tmp_path / "served") as lives:
            actions = (
                rng.integers(0, 2, (12, space.n))
                if isinstance(space, MultiBinary)
                else rng.uniform(space.low, space.high, (12, space.width))
            )
            with near.session(7) as alone, ClientWorld(near.spec, lives.server.address) as far, far.open(7) as session:
                for action in actions:
                    one, other = alone.step(action, math.inf, steps=2), session.step(action, math.inf, steps=2)
                    np.testing.assert_array_equal(one.pixels, other.pixels)
                with pytest.raises(ActionError):
                    far_step(session, np.full(space.width, 99, np.float32 if isinstance(space, Box) else np.uint8))

    def test_what_the_world_is(self, world: ClientWorld, tiny_world: World) -> None:
        library, near = client.library(), tiny_world.spec
        far = library.struct("spec")
        library.call("world_spec", world._world[0], far)
        text = {name: library.ffi.string(getattr(far, name)).decode() for name in ("name", "version", "licence")}
        assert text == {"name": near.name, "version": near.version, "licence": near.licence}
        assert library.ffi.string(far.description).decode() == near.description
        assert (far.height, far.width, far.fps) == (near.frame.height, near.frame.width, near.frame.fps)
        assert list(far.schedule_levels[0 : far.schedule_steps]) == list(near.schedule.levels)
        assert far.contexts == tiny_world.contexts
        assert library.ffi.string(far.fingerprint).decode() == near.fingerprint


def far_step(session: CSession, action: np.ndarray) -> None:
    """A step past the checks of Python."""
    session._call("step", action.tobytes(), action.nbytes, 0, client.library().ffi.NULL, 0, client.library().ffi.NULL)


class TestConnecting:
    @pytest.mark.parametrize("address", ["", "localhost:5577", "tcp://:1", "tcp://host", "tcp://host:99999", "ipc://"])
    def test_an_address_that_is_none(self, tiny_world: World, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("DSA_SERVER", raising=False)
        assert status_of(ClientWorld, tiny_world.spec, address) == E_START

    def test_nobody_there(self, tiny_world: World, tmp_path: Path) -> None:
        assert status_of(ClientWorld, tiny_world.spec, f"ipc://{tmp_path}/x", timeout_us=300_000) == E_GONE

    def test_a_world_that_is_not_there(self, lives: Lives, tiny_world: World) -> None:
        assert status_of(ClientWorld, tiny_world.spec, lives.server.address, "nowhere") == E_WORLD

    def test_a_server_with_keys(self, tiny_package: Path, tiny_world: World, tmp_path: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CONFIG_HOME", str(tmp_path))
            own, stranger = (keys.new_key(name).with_suffix(".key_secret") for name in ("own", "stranger"))
            server_key = keys.load_key(keys.new_key("server").with_suffix(".key_secret")).public.decode()
            keys.allow("own", "the client")
            access = (keys.keys_folder() / "server.key_secret", keys.default_allow_list())
            public_file = str(keys.keys_folder() / "server.key")
        with ServerProcess("tcp://127.0.0.1:*", [tiny_package], access=access) as server:
            for given in (server_key, public_file):
                config = {"key": str(own), "server_key": given}
                with ClientWorld(tiny_world.spec, server.address, **config) as far, far.open(7) as session:
                    assert session.step(0, math.inf).tick == 0
            assert self.refused(tiny_world, server, key=str(stranger), server_key=server_key) == E_GONE
            assert self.refused(tiny_world, server) == E_GONE
            assert self.refused(tiny_world, server, key=str(own)) == E_START
            assert self.refused(tiny_world, server, key=public_file, server_key=server_key) == E_START
            own.chmod(0o644)
            assert self.refused(tiny_world, server, key=str(own), server_key=server_key) == E_START

    @staticmethod
    def refused(world: World, server: ServerProcess, **config: str) -> int:
        return status_of(ClientWorld, world.spec, server.address, timeout_us=500_000, **config)

    def test_sessions_outlive_their_leases_while_the_process_lives(self, world: ClientWorld) -> None:
        with world.open(7, lease_ms=100) as session:
            session.step(0, math.inf)
            time.sleep(0.5)
            assert session.step(0, math.inf).tick == 1


class TestRestart:
    def test_a_session_goes_on_as_if_nothing_had_been(
        self, lives: Lives, world: ClientWorld, expected: list[np.ndarray]
    ) -> None:
        with world.open(7, recover=1, checkpoint_ticks=3) as session:
            frames = []
            for number, action in enumerate(ACTIONS):
                if number in (1, 5, 6):
                    lives.restart()
                frames.append(session.step(action, math.inf).pixels)
            assert session.tick == len(ACTIONS)
        np.testing.assert_array_equal(frames, expected)

    @pytest.mark.parametrize("controller", [Controller(threshold=0.5), Controller(policy="fixed", max_steps=3)])
    def test_every_way_of_going_back_is_remembered(
        self, lives: Lives, world: ClientWorld, tiny_world: World, controller: Controller
    ) -> None:
        """The same calls on a local session, and on one whose server restarts before each of them."""
        with tiny_world.session(7, history=4) as near, world.open(7, recover=1, checkpoint_ticks=4, history=4) as far:
            taken = {}

            def act(session: Any) -> Iterator[np.ndarray | None]:
                yield session.step(1, math.inf).pixels
                session.controller = controller
                yield None
                yield session.step(2, math.inf).pixels
                taken[session] = session.snapshot()
                yield None
                yield session.step(3, math.inf).pixels
                yield session.step(1, math.inf).pixels
                yield session.rewind(1)
                yield session.step(0, math.inf).pixels
                yield session.reset(3)
                yield session.step(2, math.inf).pixels
                yield session.restore(taken[session])
                yield session.step(3, math.inf).pixels
                assert session.controller == controller

            steps = act(far)
            for one in act(near):
                lives.restart() if one is None or one.sum() % 2 else None
                other = next(steps)
                assert (one is None) == (other is None)
                if one is not None:
                    np.testing.assert_array_equal(one, other)
            assert (far.tick, far.seed) == (near.tick, near.seed)

    def test_forks_are_remembered_too(self, lives: Lives, world: ClientWorld, expected: list[np.ndarray]) -> None:
        with world.open(7, recover=1) as session:
            frames = play(session, ACTIONS[:4])
            [fork] = session.fork(1)
            lives.restart()
            with fork:
                np.testing.assert_array_equal(frames + play(fork, ACTIONS[4:]), expected)
            np.testing.assert_array_equal(frames + play(session, ACTIONS[4:]), expected)

    def test_without_recover_it_is_gone_and_another_can_be_opened(
        self, lives: Lives, world: ClientWorld, expected: list[np.ndarray]
    ) -> None:
        with world.open(7) as session:
            play(session, ACTIONS[:2])
            lives.restart()
            assert status_of(session.step, 0, math.inf) == E_GONE
            assert status_of(session.step, 0, math.inf) == E_GONE
        with world.open(7) as session:
            np.testing.assert_array_equal(play(session), expected)

    def test_a_server_that_stays_away_is_waited_for_and_found_later(
        self, lives: Lives, tiny_world: World, expected: list[np.ndarray]
    ) -> None:
        with ClientWorld(tiny_world.spec, lives.server.address, timeout_us=300_000) as far, far.open(7, recover=1) as s:
            frames = play(s, ACTIONS[:3])
            lives.end()
            for _ in range(2):
                assert status_of(s.step, ACTIONS[3], math.inf) == E_GONE
            lives.begin()
            np.testing.assert_array_equal(frames + play(s, ACTIONS[3:]), expected)

    def test_another_world_of_that_name_is_refused(self, tiny_world: World, tmp_path: Path) -> None:
        other = write_tiny_world(tmp_path / "other", sink=1)
        with Lives(tiny_world, tmp_path) as lives:
            address = lives.server.address
            with ClientWorld(tiny_world.spec, address, timeout_us=TIMEOUT_US) as far, far.open(7, recover=1) as session:
                lives.end()
                with load_world(other, threads=1) as impostor, Lives(impostor, tmp_path):
                    assert status_of(session.step, 0, math.inf) == E_GONE

    def test_a_call_that_looks_for_the_server_can_be_cancelled(
        self, lives: Lives, world: ClientWorld, pool: ThreadPoolExecutor, expected: list[np.ndarray]
    ) -> None:
        with world.open(7, recover=1) as session:
            frames = play(session, ACTIONS[:3])
            lives.restart()
            play_on = session.step(ACTIONS[3], math.inf).pixels
            lives.end()
            step = pool.submit(session.step, 0, math.inf)
            # Its request has been sent to nobody; nothing but the timeout of ten seconds would end that.
            give_up = time.monotonic() + WAIT_S
            lives.begin()
            while not step.done() and time.monotonic() < give_up:
                session.cancel()
                time.sleep(0.001)
            try:
                tick = step.result(0)
                assert tick.tick == 4
            except CancelledError:
                assert session.tick == 4
            np.testing.assert_array_equal([*frames, play_on], expected[:4])


class TestProcess:
    """With a server in a process of its own."""

    @pytest.mark.parametrize("fate", [Fate(kill_at=6), Fate(drain_at=6)], ids=["killed", "draining"])
    def test_it_goes_on_where_a_server_ended(
        self,
        tiny_package: Path,
        tiny_world: World,
        private: Path,
        expected: list[np.ndarray],
        fate: Fate,
    ) -> None:
        address = f"ipc://{private}/dsa"
        with ServerProcess(address, [tiny_package], fate) as first:
            far = ClientWorld(tiny_world.spec, address)
            session = far.open(7, recover=1, checkpoint_ticks=4)
            frames = play(session, ACTIONS[:5])
            with ThreadPoolExecutor(1) as pool:
                rest = pool.submit(play, session, ACTIONS[5:])
                before = None if fate.kill_at else first.wait()
                first.wait_killed() if before is None else None
                with ServerProcess(address, [tiny_package]) as second:
                    frames += rest.result(WAIT_S)
                    far.close()
                    again = second.stop()
        np.testing.assert_array_equal(frames, expected)
        # Killed: from the checkpoint at tick 4 on. Drained: from what was handed over, so no tick twice.
        assert again == len(ACTIONS) - (4 if before is None else before)

    def test_a_session_that_repeats_returns_in_time_from_a_frozen_server(
        self, tiny_package: Path, tiny_world: World, expected: list[np.ndarray]
    ) -> None:
        with (
            ServerProcess("tcp://127.0.0.1:*", [tiny_package]) as server,
            ClientWorld(tiny_world.spec, server.address) as far,
            far.open(7, on_miss=REPEAT) as session,
        ):
            frames = play(session, ACTIONS[:3])
            os.kill(server._process.pid, signal.SIGSTOP)
            try:
                first, second = session.step(ACTIONS[3], 50.0), session.step(2, 50.0)
            finally:
                os.kill(server._process.pid, signal.SIGCONT)
            assert [first.status, second.status] == ["repeated", "skipped"]
            assert [first.tick, second.tick] == [3, 4]
            assert [first.frame_tick, second.frame_tick] == [2, 2]
            for tick in (first, second):
                np.testing.assert_array_equal(tick.pixels, frames[2])
            third = session.step(ACTIONS[4], math.inf)
            assert (third.tick, third.frame_tick, third.status) == (4, 4, "ok")
            assert session.tick == 5

    def test_threads_each_with_a_session(
        self, server: ServerProcess, tiny_world: World, pool: ThreadPoolExecutor
    ) -> None:
        def walk(far: ClientWorld, seed: int) -> list[np.ndarray]:
            with far.open(seed) as session:
                return play(session)

        with ClientWorld(tiny_world.spec, server.address) as far:
            together = list(pool.map(lambda seed: walk(far, seed), range(4)))
            for seed in range(4):
                with tiny_world.session(seed) as alone:
                    np.testing.assert_array_equal(together[seed], play(alone))


class TestTheWay:
    """What happens between the client and the server."""

    @pytest.fixture
    def relay(self, lives: Lives, private: Path) -> Iterator[Relay]:
        with relayed(lives.server.address, private) as between:
            yield between

    def test_what_is_lost_is_asked_again_and_happens_once(
        self, relay: Relay, tiny_world: World, expected: list[np.ndarray]
    ) -> None:
        lost: set[tuple[str, int]] = set()

        def lose(message: Message) -> bool:
            """The first of each step and snapshot, there and back."""
            key = (message.type, message.id)
            if message.type not in ("step", "frame", "snapshot") or key in lost:
                return True
            lost.add(key)
            return False

        relay.requests = relay.replies = lose
        far = ClientWorld(tiny_world.spec, relay.address, frames=PART)
        with far, far.open(7, recover=1, checkpoint_ticks=2) as session:
            np.testing.assert_array_equal(play(session, ACTIONS[:4]), expected[:4])
        assert len(lost) >= 8

    @pytest.mark.parametrize("seed", range(2))
    def test_replies_that_make_no_sense_end_in_errors(self, relay: Relay, tiny_world: World, seed: int) -> None:
        rng = np.random.default_rng(seed)

        def spoil(parts: list[bytes]) -> list[bytes]:
            nonlocal spoilt
            if rng.random() < 0.5:
                return parts
            spoilt += 1
            parts = [bytearray(part) for part in parts]  # type: ignore[misc]
            for _ in range(int(rng.integers(1, 6))):
                part = parts[int(rng.integers(len(parts)))]
                if len(part):
                    part[int(rng.integers(len(part)))] = int(rng.integers(256))  # type: ignore[index]
            if rng.random() < 0.2:
                parts = parts[: int(rng.integers(1, len(parts) + 1))]
            if rng.random() < 0.2:
                parts[-1] = parts[-1][: int(rng.integers(0, len(parts[-1]) + 1))]
            return [bytes(part) for part in parts]

        spoilt = 0
        for early in (True, False):
            far = ClientWorld(tiny_world.spec, relay.address, frames=PART, timeout_us=200_000)
            try:
                relay.change = spoil if early else relay.change
                with far.open(7, recover=1, checkpoint_ticks=2) as session:
                    relay.change = spoil
                    for action in ACTIONS[:6]:
                        session.step(action, math.inf)
                    session.restore(session.snapshot())
            except (DsaError, KeyError):  # a status that the tests' host has no name for, or one that it knows
                pass
            finally:
                relay.change = lambda parts: parts
                far.close()
        assert spoilt > 0
        with ClientWorld(tiny_world.spec, relay.address) as far, far.open(7) as session:
            assert session.step(0, math.inf).tick == 0

    def test_a_step_is_stopped_at_the_server(
        self, lives: Lives, world: ClientWorld, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with world.open(7) as session, monkeypatch.context() as patch:
            gate = Gate(patch, "denoise")
            step = pool.submit(session.step, 3, math.inf)
            assert gate.inside.wait(WAIT_S)
            give_up = time.monotonic() + WAIT_S
            while not session.cancel():
                assert time.monotonic() < give_up
                time.sleep(0.001)
            with pytest.raises(CancelledError):
                step.result(WAIT_S)


def sanitized(folder: Path, name: str) -> Path:
    reason = _sanitizer_missing(folder)
    if reason:
        pytest.skip(reason)
    return client.compile_program(PROGRAMS / f"{name}.c", folder / name, SANITIZED)


def _sanitizer_missing(folder: Path) -> str | None:
    probe = folder / "probe.c"
    probe.write_text("int main(void) { return 0; }\n")
    done = subprocess.run(["cc", *SANITIZED.split(), str(probe), "-o", str(folder / "probe")], capture_output=True)
    return "the compiler has no sanitizers" if done.returncode else None


@pytest.mark.slow
class TestSanitized:
    """Under AddressSanitizer, LeakSanitizer and UndefinedBehaviorSanitizer."""

    @pytest.mark.parametrize("name", ["misuse", "threads"])
    def test_misuse_and_threads(self, server: ServerProcess, tmp_path: Path, name: str) -> None:
        assert run(sanitized(tmp_path, name), "tiny", DSA_SERVER=server.address) == "ok\n"

    def test_a_life(self, server: ServerProcess, tiny_world: World, tmp_path: Path) -> None:
        actions = np.asarray(ACTIONS, np.int32)
        run(
            sanitized(tmp_path, "play"),
            "tiny",
            tmp_path / "frames",
            3,
            stdin=actions.tobytes(),
            DSA_SERVER=server.address,
        )
        with tiny_world.session(7) as alone:
            expected = play(alone, steps=3)
        found = np.fromfile(tmp_path / "frames", np.uint8).reshape(len(ACTIONS), 8, 8, 3)
        np.testing.assert_array_equal(found, expected)

    def test_across_a_kill(self, tiny_package: Path, private: Path, tmp_path: Path) -> None:
        sanitized(tmp_path, "misuse")  # skips where that is not possible
        folder = client.built(SANITIZED)
        client.make(tmp_path, "examples", SANITIZED, LIBRARY=folder / client.NAME)
        address = f"ipc://{private}/dsa"
        command = [str(tmp_path / "control_loop"), "--fast", "--recover", "--ticks", "600"]
        with ServerProcess(address, [tiny_package], Fate(kill_at=250)) as first:
            loop = subprocess.Popen(
                command, env={**os.environ, "DSA_SERVER": address}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            first.wait_killed()
        with loop, ServerProcess(address, [tiny_package]):
            out, err = loop.communicate(timeout=120)
        assert loop.returncode == 0, err
        assert b"ticks=600" in out and b"made again" in err and b"Sanitizer" not in err
