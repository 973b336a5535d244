"""The processes of `bench_serving`: servers and the Python client, each told what to do by lines of JSON.

python -m tests.bench.serving_roles serve|npy|client [ARGUMENT]
"""

from __future__ import annotations

import functools
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dsa_runtime import Tick, World, connect, load_world
from dsa_runtime.serving import remote_session
from dsa_runtime.serving.config import ServerConfig
from dsa_runtime.serving.observer import Observer
from dsa_runtime.serving.security import Access
from dsa_runtime.serving.server import Server
from tests.bench.npy_peer import NpyClient, NpyServer

WARM_UP_TICKS = 20
"""Of every round, not counted: new connections, new rings, new pages."""
_PATIENCE_S = 30.0

Step = Callable[[int], tuple[float, np.ndarray]]
"""Plays a tick: what the tick itself took, in ms, and its pixels."""


class Role:
    """One of the processes, from the outside. Ends with the `with` statement."""

    def __init__(self, role: str, argument: Mapping[str, Any] | None = None) -> None:
        command = [sys.executable, "-m", "tests.bench.serving_roles", role, json.dumps(argument)]
        environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
        root = Path(__file__).resolve().parents[2]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment, cwd=root)

    @functools.cached_property
    def ready(self) -> Any:
        """What it says when it is ready. Waits for that; so look at it before anything is asked."""
        return self._receive()

    def ask(self, **question: Any) -> Any:
        """One line there, one line back."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._receive()

    def __enter__(self) -> Role:
        return self

    def __exit__(self, *_: object) -> None:
        """Closing its input ends it."""
        try:
            self._process.communicate(timeout=_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def _receive(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended with status {self._process.wait()}")
        return json.loads(line)


class TickTimes(Observer):
    """What the server's ticks took."""

    def __init__(self) -> None:
        self._times_ms: list[float] = []

    def tick(self, tick: Tick) -> None:
        self._times_ms.append(tick.latency_ms["total"])

    def take(self) -> list[float]:
        """Those since the last call, in ms."""
        times, self._times_ms = self._times_ms, []
        return times


def serve(packages: list[str], keys: list[str] | None) -> None:
    """Our server. Any line of its input asks for what its ticks took."""
    times = TickTimes()
    with _worlds(packages) as worlds:
        access = None if keys is None else Access.load(*keys)
        # One session at a time, however slow the machine is at the moment.
        server = Server(worlds, ServerConfig("tcp://127.0.0.1:*", access, load_most=math.inf), times)
        server.bind()

        def listen() -> None:
            for _ in sys.stdin:
                _say(times.take())
            server.stop()

        threading.Thread(target=listen, daemon=True).start()
        _say({"address": server.address})
        server.run()


def npy(packages: list[str]) -> None:
    """The server that ours is compared with."""
    with _worlds(packages) as worlds:
        server = NpyServer(worlds)
        threading.Thread(target=server.run, daemon=True).start()
        _say({"address": server.address})
        sys.stdin.read()
        sys.stdout.flush()
        os._exit(0)  # its sessions may be in the middle of something, and nobody asks any more


def client() -> None:
    """The Python client of either. Each line of its input is a round."""
    _say({})
    for line in sys.stdin:
        asked = json.loads(line)
        hz, ticks = asked.pop("hz"), asked.pop("ticks")
        with (_npy_step if asked.pop("npy") else _our_step)(**asked) as step:
            _paced(step, WARM_UP_TICKS, hz)
            _say(_paced(step, ticks, hz))


def _paced(step: Step, ticks: int, hz: float) -> list[tuple[float, float]]:
    """Round trip and tick, in ms, of each tick. A late one delays the next; there is no catching up."""
    period_s = 1 / hz if hz else 0.0
    times, due_s = [], time.perf_counter()
    for tick in range(ticks):
        time.sleep(max(due_s - time.perf_counter(), 0.0))
        started_s = time.perf_counter()
        tick_ms, _ = step(tick // 8 % 4)
        ended_s = time.perf_counter()
        times.append(((ended_s - started_s) * 1e3, tick_ms))
        due_s = max(due_s + period_s, ended_s)
    return times


@contextmanager
def _our_step(address: str, world: str, frames: Any, keys: list[str] | None) -> Iterator[Step]:
    key, server_key = keys or (None, None)
    queue_ms = 0.0
    read = remote_session.tick_of

    def tick_of(fields: Mapping[str, Any], pixels: np.ndarray) -> Tick:
        # A `Tick` says what it waited for in all; what of that the server's queue was is the wire's doing.
        nonlocal queue_ms
        queue_ms = fields["latency_us"]["queue"] / 1e3
        return read(fields, pixels)

    def step(action: int) -> tuple[float, np.ndarray]:
        tick = session.step(action, math.inf, steps=1)
        return tick.latency_ms["total"] - queue_ms, tick.pixels

    remote_session.tick_of = tick_of
    try:
        with (
            connect(address, key=key, server_key=server_key) as connection,
            connection.session(0, world=world, frames=frames) as session,
        ):
            yield step
    finally:
        remote_session.tick_of = read


@contextmanager
def _npy_step(address: str, world: str) -> Iterator[Step]:
    with NpyClient(address) as peer:
        peer.ask("reset", world=world, seed=0)

        def step(action: int) -> tuple[float, np.ndarray]:
            reply = peer.ask("step", world=world, action=np.asarray(action), steps=1)
            return reply["total_ms"], reply["frame"]

        yield step


@contextmanager
def _worlds(packages: list[str]) -> Iterator[dict[str, World]]:
    with ExitStack() as stack:
        worlds = [stack.enter_context(load_world(package, threads=1)) for package in packages]
        yield {world.spec.name: world for world in worlds}


def _say(value: Any) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    {"serve": serve, "npy": npy, "client": client}[sys.argv[1]](**json.loads(sys.argv[2]) or {})
