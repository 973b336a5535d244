"""What every client of bindings/wire/ has to do, whatever its language. `test_<language>.py` says how it is built."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import zmq

from dsa_runtime import Session, World
from dsa_runtime.serving import keys
from dsa_runtime.spec import Box, Discrete
from tests.chunk_world import PROMPTS
from tests.wire_clients.serve import Fate, ServerProcess

SOURCES = Path(__file__).resolve().parents[2] / "bindings" / "wire"
PATIENCE_S = 120.0
SEED = 7
STATISTICS = re.compile(
    r"ticks=(?P<ticks>\d+) mean_steps=(?P<mean_steps>[\d.]+) late=(?P<late>\d+) recoveries=(?P<recoveries>\d+) "
    r"round_trip_us_p50=(?P<p50>\d+) round_trip_us_p99=(?P<p99>\d+)\n"
)


class ClientContract:
    """Subclasses have a fixture `command`: how the client is called."""

    def test_each_tick_arrives(
        self, command: list[str], server: ServerProcess, tiny_world: World, tmp_path: Path
    ) -> None:
        found = play(command, server.address, tmp_path, "--fast", "--steps", 2)

        assert (found["ticks"], found["mean_steps"], found["recoveries"]) == (300, 2, 0)
        assert 0 < found["p50"] <= found["p99"]
        assert np.array_equal(picture(tmp_path), last_frame(tiny_world, 300, 2))

    def test_the_controller_decides_how_many_steps(
        self, command: list[str], server: ServerProcess, tmp_path: Path
    ) -> None:
        found = play(command, server.address, tmp_path, "--ticks", 5)

        assert found["ticks"] == 5 and 1 <= found["mean_steps"] <= 4
        assert picture(tmp_path).shape == (8, 8, 3)

    def test_shared_memory(self, command: list[str], server: ServerProcess, tiny_world: World, tmp_path: Path) -> None:
        found = play(command, server.address, tmp_path, "--fast", "--steps", 1, "--shm", "--ticks", 50)

        assert found["ticks"] == 50
        assert np.array_equal(picture(tmp_path), last_frame(tiny_world, 50, 1))

    @pytest.mark.parametrize("name", ["tiny-buttons", "tiny-levers"])
    def test_every_action_space(
        self, command: list[str], server: ServerProcess, worlds: dict[str, World], name: str, tmp_path: Path
    ) -> None:
        play(command, server.address, tmp_path, "--fast", "--steps", 1, "--ticks", 40, "--world", name)

        assert np.array_equal(picture(tmp_path), last_frame(worlds[name], 40, 1))

    @pytest.mark.parametrize("way", [[], ["--shm"]], ids=["part", "shm"])
    def test_several_pictures_a_tick_and_a_prompt(
        self, command: list[str], server: ServerProcess, worlds: dict[str, World], way: list[str], tmp_path: Path
    ) -> None:
        options = ["--fast", "--steps", 1, "--ticks", 20, "--world", "chunks", "--prompt", PROMPTS[1], *way]
        play(command, server.address, tmp_path, *options)

        assert np.array_equal(picture(tmp_path), last_frame(worlds["chunks"], 20, 1, PROMPTS[1]))

    def test_it_goes_on_where_a_server_was_killed(
        self, command: list[str], tiny_package: Path, tiny_world: World, private: Path, tmp_path: Path
    ) -> None:
        found, again = play_across_a_kill(command, tiny_package, private, tmp_path, "--steps", 2)

        assert (found["ticks"], found["mean_steps"], found["recoveries"]) == (300, 2, 1)
        assert again == 180  # from the snapshot of tick 120 on
        assert np.array_equal(picture(tmp_path), last_frame(tiny_world, 300, 2))

    def test_a_draining_server_hands_the_session_back(
        self, command: list[str], tiny_package: Path, tiny_world: World, private: Path, tmp_path: Path
    ) -> None:
        address = f"ipc://{private}/dsa"
        with ServerProcess(address, [tiny_package], Fate(drain_at=150)) as first:
            client = start(command, address, tmp_path, "--fast", "--steps", 2)
            before = first.wait()
        with ServerProcess(address, [tiny_package]) as second:
            found = end(client)
            after = second.stop()

        assert (found["ticks"], found["recoveries"]) == (300, 1)
        assert before + after == 300  # no tick twice
        assert np.array_equal(picture(tmp_path), last_frame(tiny_world, 300, 2))

    def test_encryption(
        self,
        command: list[str],
        tiny_package: Path,
        tiny_world: World,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        server_key = keys.load_key(keys.new_key("server").with_suffix(".key_secret"))
        public, secret = zmq.curve_keypair()
        keys.allow(public.decode(), "the client")
        access = (keys.keys_folder() / "server.key_secret", keys.default_allow_list())
        own = {
            "DSA_SERVER_KEY": server_key.public.decode(),
            "DSA_PUBLIC_KEY": public.decode(),
            "DSA_SECRET_KEY": secret.decode(),
        }
        with ServerProcess("tcp://127.0.0.1:*", [tiny_package], access=access) as server:
            play(command, server.address, tmp_path, "--fast", "--steps", 1, "--ticks", 20, **own)

        assert np.array_equal(picture(tmp_path), last_frame(tiny_world, 20, 1))

    def test_what_the_server_refuses_is_said(self, command: list[str], server: ServerProcess, tmp_path: Path) -> None:
        client = start(command, server.address, tmp_path, "--world", "nowhere")
        _, err = client.communicate(timeout=PATIENCE_S)

        assert client.returncode == 1
        assert "invalid" in err and "nowhere" in err

    def test_wrong_arguments(self, command: list[str]) -> None:
        found = subprocess.run([*command, "--nonsense"], capture_output=True, text=True, timeout=PATIENCE_S)

        assert found.returncode == 2
        assert "ADDRESS" in found.stderr


def start(command: list[str], address: str, folder: Path, *options: object, **own: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*command, address, "--seed", str(SEED), "--picture", str(folder / "frame.ppm"), *map(str, options)],
        env={**os.environ, **own},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(client: subprocess.Popen[str]) -> dict[str, float]:
    """The client's statistics."""
    out, err = client.communicate(timeout=PATIENCE_S)
    assert client.returncode == 0, err
    found = STATISTICS.fullmatch(out)
    assert found, out
    return {name: float(value) for name, value in found.groupdict().items()}


def play(command: list[str], address: str, folder: Path, *options: object, **own: str) -> dict[str, float]:
    return end(start(command, address, folder, *options, **own))


def play_across_a_kill(
    command: list[str], package: Path, private: Path, folder: Path, *options: object
) -> tuple[dict[str, float], int]:
    """The server is killed at tick 150, and started again: the client's statistics, and the second one's ticks."""
    address = f"ipc://{private}/dsa"
    with ServerProcess(address, [package], Fate(kill_at=150)) as first:
        client = start(command, address, folder, "--fast", *options)
        first.wait_killed()
    with ServerProcess(address, [package]) as second:
        return end(client), second.stop()


def picture(folder: Path) -> np.ndarray:
    """`uint8[height, width, 3]` of the PPM that the client has written."""
    content = (folder / "frame.ppm").read_bytes()
    head = re.match(rb"P6\n(\d+) (\d+)\n255\n", content)
    assert head, content[:20]
    return np.frombuffer(content, np.uint8, offset=head.end()).reshape(int(head[2]), int(head[1]), 3)


def last_frame(world: World, ticks: int, steps: int, prompt: str | None = None) -> np.ndarray:
    """What a session in this process shows after the same actions: the last tick's pictures, one below the other."""
    with world.session(seed=SEED, prompt=prompt) as session:
        for tick in range(ticks):
            frames = session.step(_action(session, tick // 8), steps=steps).frames
    return frames.reshape(-1, *frames.shape[2:])


def _action(session: Session, turn: int) -> int | list[float]:
    """The player of the clients' examples."""
    space = session.spec.action_space
    if isinstance(space, Discrete):
        return turn % space.n
    if isinstance(space, Box):
        bounds = enumerate(zip(space.low, space.high, strict=True))
        return [low + (turn + i) % 5 / 4 * (high - low) for i, (low, high) in bounds]
    return [(turn + i) % 2 for i in range(space.n)]
