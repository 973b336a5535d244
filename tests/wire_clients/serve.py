"""ServerProcess: a server of tiny worlds in a process of its own, to be killed by tests."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from dsa_runtime import load_world
from dsa_runtime.serving.config import ServerConfig
from dsa_runtime.serving.observer import Observer
from dsa_runtime.serving.security import Access
from dsa_runtime.serving.server import Server
from dsa_runtime.tick import Tick

_PATIENCE_S = 60.0
_LONG_MS = 600_000  # a lease, and the time to drain: a server that drains ends when its clients let it
# Forked from a process that has done the imports already: tests start many of these.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload([__name__])


@dataclass(frozen=True)
class Fate:
    """What becomes of a server."""

    kill_at: int | None = None
    """SIGKILL at its tick of that number, before the frame is sent."""
    drain_at: int | None = None
    """It drains after its tick of that number."""


class ServerProcess:
    """Ready when it is made. Use it in a `with` statement, at whose end it is killed."""

    def __init__(
        self, address: str, packages: list[Path], fate: Fate | None = None, access: tuple[Path, Path] | None = None
    ) -> None:
        """access   files of the server's secret key and of its allow-list"""
        self._end, far_end = _PROCESSES.Pipe(duplex=False)
        arguments = (far_end, address, packages, fate or Fate(), access)
        self._process = _PROCESSES.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        far_end.close()
        self.address: str = self._receive()

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        self._end.close()

    def wait_killed(self) -> None:
        """Until it is gone."""
        self._process.join(_PATIENCE_S)
        assert self._process.exitcode == -signal.SIGKILL

    def wait(self) -> int:
        """Until it ends by itself; the number of ticks that it has served."""
        ticks: int = self._receive()
        self._process.join(_PATIENCE_S)
        assert self._process.exitcode == 0
        return ticks

    def stop(self) -> int:
        """End it; the number of ticks that it has served."""
        self._process.terminate()
        return self.wait()

    def _receive(self) -> object:
        if not self._end.poll(_PATIENCE_S):
            raise TimeoutError("the server has nothing to say")
        return self._end.recv()


class _Watch(Observer):
    def __init__(self, fate: Fate) -> None:
        self.ticks = 0
        self.server: Server
        self._fate = fate

    def tick(self, tick: Tick) -> None:
        self.ticks += 1
        if self.ticks == self._fate.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.ticks == self._fate.drain_at:
            self.server.drain()


def _serve(end: Connection, address: str, packages: list[Path], fate: Fate, access: tuple[Path, Path] | None) -> None:
    with ExitStack() as stack:
        worlds = [stack.enter_context(load_world(package, threads=1)) for package in packages]
        config = ServerConfig(
            address, access and Access.load(*access), load_most=math.inf, lease_ms=_LONG_MS, drain_s=_LONG_MS / 1000
        )
        watch = _Watch(fate)
        watch.server = Server({world.spec.name: world for world in worlds}, config, watch)
        signal.signal(signal.SIGTERM, lambda *_: watch.server.stop())
        watch.server.bind()
        end.send(watch.server.address)
        watch.server.run()
        end.send(watch.ticks)
