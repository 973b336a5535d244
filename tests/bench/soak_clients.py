"""The clients of `bench_soak`: one process of them, each on a thread, until its input ends.

python -m tests.bench.soak_clients ADDRESS SEED
"""

from __future__ import annotations

import json
import math
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import zmq

from dsa_runtime import BusyError, CancelledError, DeadlineError, RemoteSession, SessionError, connect
from dsa_runtime.commands.player import ScriptedPlayer
from dsa_runtime.serving.wire import MAGIC, Bytes, Message, pack, unpack

RATES_HZ = (10.0, 30.0, 60.0, 0.0)
FRAMES = ("part", "shm", "jpeg", "png")
BUDGETS_MS = (math.inf, 50.0, 5.0, 0.2)
ON_MISS = ("best_effort", "repeat", "raise")
HISTORY = 6
DESERTED_LEASE_MS = 1000
_EXPECTED = (CancelledError, DeadlineError)
_REPLY_MS = 20_000
_MOST_PROBLEMS = 20


class Clients:
    """What the threads of one process share."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.ended = threading.Event()
        self.done: Counter[str] = Counter()
        """How often what was done; a thread may now and then lose one to another."""
        self.problems: list[str] = []
        """What should not have happened."""
        self.topics: deque[bytes] = deque(maxlen=8)
        """Of published sessions, the newest last."""

    def run(self, what: Callable[[Clients, np.random.Generator], None], seed: int) -> None:
        """Do something again and again until the end, or until it goes wrong."""
        rng = np.random.default_rng(seed)
        try:
            while not self.ended.is_set():
                what(self, rng)
        except Exception as error:
            if len(self.problems) < _MOST_PROBLEMS:
                self.problems.append(f"{what.__name__}: {type(error).__name__}: {error}"[:300])


def play(clients: Clients, rng: np.random.Generator) -> None:
    """Come, play some sessions one after the other, go."""
    with connect(clients.address, timeout_ms=_REPLY_MS) as connection:
        for _ in range(int(rng.integers(1, 4))):
            try:
                session = connection.session(
                    int(rng.integers(1000)),
                    world=connection.worlds[int(rng.integers(len(connection.worlds)))].name,
                    on_miss=_one_of(rng, ON_MISS),
                    history=_one_of(rng, (0, HISTORY)),
                    frames=_one_of(rng, FRAMES),
                    publish=_one_of(rng, (True, False)),
                )
            except BusyError:
                clients.done["refused"] += 1
                clients.ended.wait(0.2)
                continue
            with session:
                clients.done["sessions"] += 1
                if session.topic is not None:
                    clients.topics.append(session.topic)
                _play(clients, session, rng)


def _play(clients: Clients, session: RemoteSession, rng: np.random.Generator) -> None:
    rate_hz, action = _one_of(rng, RATES_HZ), ScriptedPlayer(session.spec.action_space).action
    snapshot = session.snapshot()
    for tick in range(int(rng.integers(20, 150))):
        if clients.ended.wait(rng.exponential(1 / rate_hz) if rate_hz else 0.0):
            return
        _step(clients, session, action(tick), _one_of(rng, BUDGETS_MS))
        draw = rng.random()
        if draw < 0.02:
            snapshot = session.snapshot()
            clients.done["snapshots"] += 1
        elif draw < 0.04:
            session.restore(snapshot)
            clients.done["restores"] += 1
        elif draw < 0.05:
            session.reset(int(rng.integers(1000)))
            clients.done["resets"] += 1
        elif draw < 0.07:
            _rewind(clients, session)
        elif draw < 0.09:
            _fork(clients, session, rng, action(tick))
        elif draw < 0.12:
            _cancel(clients, session, action(tick))


def _step(clients: Clients, session: RemoteSession, action: Any, budget_ms: float) -> None:
    try:
        tick = session.step(action, budget_ms)
    except _EXPECTED as error:
        clients.done[type(error).__name__] += 1
    else:
        clients.done[tick.status] += 1


def _rewind(clients: Clients, session: RemoteSession) -> None:
    """One tick back. Not every session can, and none at its start; who asks all the same is told so."""
    try:
        session.rewind(1)
        clients.done["rewinds"] += 1
    except SessionError:
        clients.done["refused rewinds"] += 1


def _fork(clients: Clients, session: RemoteSession, rng: np.random.Generator, action: Any) -> None:
    try:
        branches = session.fork(int(rng.integers(1, 4)))
    except BusyError:
        clients.done["refused"] += 1
        return
    clients.done["forks"] += len(branches)
    for branch in branches:
        with branch:
            for _ in range(3):
                _step(clients, branch, action, math.inf)


def _cancel(clients: Clients, session: RemoteSession, action: Any) -> None:
    """Cancel a step from another thread, at whatever it is."""
    canceller = threading.Thread(target=session.cancel)
    canceller.start()
    _step(clients, session, action, math.inf)
    canceller.join()
    clients.done["cancels"] += 1


def watch(clients: Clients, rng: np.random.Generator) -> None:
    """Look on for a while, or be an onlooker who never looks."""
    if not clients.topics:
        clients.ended.wait(0.1)
        return
    with (
        connect(clients.address, timeout_ms=_REPLY_MS) as connection,
        connection.spectator(_one_of(rng, tuple(clients.topics))) as spectator,
    ):
        if rng.random() < 0.3:
            clients.ended.wait(1.0)
            clients.done["blind spectators"] += 1
        for _ in range(int(rng.integers(20))):
            clients.done["frames watched"] += spectator.receive(100) is not None
            if clients.ended.is_set():
                return


def desert(clients: Clients, rng: np.random.Generator) -> None:
    """Open a session by hand, play, and go without a word: its lease has to run out."""
    with closing(_socket(clients.address)) as socket:
        epoch = _ask(socket, Message("hello", 1, {"min": 1, "max": 1})).fields["epoch"]
        fields = {"epoch": epoch, "key": int(rng.integers(2**63)), "frames": _one_of(rng, FRAMES)}
        opened = _ask(socket, Message("open", 2, {**fields, "lease_ms": DESERTED_LEASE_MS}))
        if opened.type == "opened":
            step = {"epoch": epoch, "sid": opened.fields["sid"], "action": 0, "budget_us": -1}
            if rng.random() < 0.5:
                _ask(socket, Message("step", 3, step))
            else:
                socket.send_multipart(pack(Message("step", 3, step)))  # and does not wait for it
            clients.done["deserted"] += 1
    clients.ended.wait(float(rng.uniform(0.2, 1.0)))


def babble(clients: Clients, rng: np.random.Generator) -> None:
    """Send what is no message, or hardly one; half of the time without reading the replies."""
    reads = rng.random() < 0.5
    with closing(_socket(clients.address)) as socket:
        epoch = _ask(socket, Message("hello", 1, {"min": 1, "max": 1})).fields["epoch"]
        for _ in range(50):
            socket.send_multipart(_nonsense(rng, epoch))
            clients.done["malformed"] += 1
            while reads and socket.poll(5):
                socket.recv_multipart()
    clients.ended.wait(float(rng.uniform(0.2, 1.0)))


def _nonsense(rng: np.random.Generator, epoch: int) -> list[Bytes]:
    noise = rng.bytes(int(rng.integers(1, 2000)))
    sane = pack(Message("step", 1, {"epoch": epoch, "sid": 1, "action": 0}))  # of a session that is not there
    header = bytes(sane[1])
    return _one_of(
        rng,
        (
            [noise],
            [MAGIC],
            [MAGIC, noise],
            [MAGIC, header[: int(rng.integers(len(header)))]],
            [MAGIC, header, noise],
            [b"", b"", MAGIC, header],
            [MAGIC, bytes(1 << 17)],
            [MAGIC, header, *[noise] * 12],
            sane,
            pack(Message("step", 1, {"epoch": epoch ^ 1, "sid": 1, "action": 0})),
            pack(Message("open", 1, {"epoch": epoch, "key": "none"})),
            pack(Message("open", 1, {"epoch": epoch, "key": 1, "frames": "smoke signals"})),
            pack(Message("open", 1, {"epoch": epoch, "key": int(rng.integers(2**63)), "threshold": 7})),
            pack(Message(noise[:20].hex(), 1, {"epoch": epoch})),
        ),
    )


ROLES = (play, play, play, watch, desert, babble)
USERS = 4
"""Of the roles, those that have sessions of a world."""


def _one_of(rng: np.random.Generator, choices: tuple[Any, ...]) -> Any:
    return choices[int(rng.integers(len(choices)))]


def _socket(address: str) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(address)
    return socket


def _ask(socket: zmq.Socket[bytes], message: Message) -> Message:
    socket.send_multipart(pack(message))
    if not socket.poll(_REPLY_MS):
        raise TimeoutError(f"no reply to {message.type}")
    return unpack(socket.recv_multipart())


def main(address: str, seed: int) -> None:
    """Start the threads and say so; when the input ends, stop them and say what they did."""
    clients = Clients(address)
    threads = [
        threading.Thread(target=clients.run, args=(role, 1000 * seed + index)) for index, role in enumerate(ROLES)
    ]
    for thread in threads:
        thread.start()
    print("ready", flush=True)
    sys.stdin.read()
    clients.ended.set()
    for thread in threads:
        thread.join()
    print(json.dumps({"done": clients.done, "problems": clients.problems}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
