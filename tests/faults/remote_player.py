"""Players at a server, who never rest until they are told to: in a thread of the test, or in a process that can be
killed, frozen, or put behind a bad network.

As a program this writes a line per tick, "TICK STEPS STATUS SHA256-OF-PIXELS"; and after SIGTERM, before it ends,
"server TICKS" with the number of ticks that the server has counted.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import math
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from dsa_runtime import Tick, World, connect
from dsa_runtime.serving.remote_session import RemoteSession

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Line:
    """What a player has seen of one tick."""

    tick: int
    steps: int
    status: str
    sha: str


def action_of(tick: int) -> int:
    """What everyone plays here."""
    return (3 * tick + tick // 5) % 4


def sha(pixels: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels)).hexdigest()


def check_against_lone_session(world: World, seed: int, lines: list[Line]) -> None:
    """Nothing lost, nothing twice, no wrong frame: a session by itself sees the same, tick by tick."""
    with world.session(seed) as lone:
        for index, line in enumerate(lines):
            assert line.tick == index
            tick = lone.step(action_of(index), math.inf, steps=line.steps)
            assert sha(tick.pixels) == line.sha, f"tick {index} is another frame"


def line_of(tick: Tick) -> Line:
    """A tick as it was seen."""
    return Line(tick.tick, tick.steps, tick.status, sha(tick.pixels))


class Player:
    """Plays in a thread, from `with` to its end, which waits for a last good tick."""

    def __init__(self, session: RemoteSession) -> None:
        self.lines: list[Line] = []
        self._session = session
        self._seen = threading.Condition()
        self._ended = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._play, daemon=True)

    def __enter__(self) -> Player:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        assert self._error is None, self._error

    def reach(self, more: int) -> None:
        """Wait until it has seen so many more ticks."""
        with self._seen:
            goal = len(self.lines) + more
            done = self._seen.wait_for(lambda: len(self.lines) >= goal or self._error is not None, PATIENCE_S)
            assert done and self._error is None, self._error

    def _play(self) -> None:
        try:
            while not self._ended:
                tick = self._session.step(action_of(len(self.lines)), math.inf)
                with self._seen:
                    self.lines.append(line_of(tick))
                    self._seen.notify()
        except Exception as error:
            with self._seen:
                self._error = error
                self._seen.notify()


class RemotePlayer:
    """The same in a process of its own. Killed at the end of `with` if it still runs."""

    def __init__(self, address: str, *options: object, prefix: tuple[str, ...] = ()) -> None:
        """`options` of the program below; `prefix` of the command, such as `ip netns exec NAME`."""
        self._command = [*prefix, sys.executable, "-m", "tests.faults.remote_player", address, *map(str, options)]
        self.lines: list[Line] = []
        self.server_ticks = 0
        """What the server said at the end."""

    def __enter__(self) -> RemotePlayer:
        self._err: IO[bytes] = tempfile.TemporaryFile()
        self.process = subprocess.Popen(self._command, cwd=ROOT, stdout=subprocess.PIPE, stderr=self._err, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._err.close()

    def reach(self, more: int) -> None:
        """Wait until it has seen so many more ticks."""
        assert self.process.stdout is not None
        for _ in range(more):
            words = self.process.stdout.readline().split()
            assert words, self._errors()
            self._note(words)

    def finish(self) -> None:
        """Tell it to end, and wait for that, which must be a good one."""
        assert self.process.stdout is not None
        self.process.terminate()
        for line in self.process.stdout:
            self._note(line.split())
        assert self.process.wait(PATIENCE_S) == 0, self._errors()

    def _note(self, words: list[str]) -> None:
        if words[0] == "server":
            self.server_ticks = int(words[1])
        else:
            self.lines.append(Line(int(words[0]), int(words[1]), words[2], words[3]))

    def _errors(self) -> str:
        self._err.seek(0)
        return self._err.read().decode()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lease-ms", type=int)
    parser.add_argument("--checkpoint-ticks", type=int)
    parser.add_argument("--key")
    parser.add_argument("--server-key")
    options = parser.parse_args()
    keys = {"key": options.key, "server_key": options.server_key}
    recover = options.checkpoint_ticks is not None
    more = {"lease_ms": options.lease_ms, "checkpoint_ticks": options.checkpoint_ticks, "recover": recover}
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: ended.append(number))
    with connect(options.address, timeout_ms=1000 * PATIENCE_S, **keys) as server:
        with server.session(options.seed, **more) as session:
            for index in itertools.count():
                line = line_of(session.step(action_of(index), math.inf))
                print(line.tick, line.steps, line.status, line.sha, flush=True)
                if ended:
                    break
        print("server", server.stats()["ticks"], flush=True)


if __name__ == "__main__":
    main()
