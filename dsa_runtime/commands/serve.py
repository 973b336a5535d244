"""`dsa serve`: worlds for other processes and machines, over ZeroMQ.

SIGTERM or SIGINT drains it: sessions are handed back as snapshots and it ends with status 0. A second signal ends it at
once. docs/serving.md says how to run it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING, Any

from ..errors import ServingError
from .arguments import add_device, positive
from .result import Result

if TYPE_CHECKING:
    from ..serving.config import ServerConfig
    from ..serving.observer import Observer
    from ..serving.server import Server
    from ..world import World

HELP = "serve worlds to other processes and machines, over ZeroMQ"
_BIND = "tcp://127.0.0.1:5577"
_ALIVE_S = 5.0  # the I/O loop comes around at least once a second
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "world",
        nargs="*",
        metavar="WORLD",
        help="package folders, .dsaworld archives or names of bundled worlds; the first is the default of clients"
        " (default: the bundled one)",
    )
    parser.add_argument(
        "--bind",
        default=_BIND,
        metavar="ADDRESS",
        help="tcp://HOST:PORT or ipc:///PATH; one that other machines can reach needs --curve (default: %(default)s)",
    )
    parser.add_argument("--publish", metavar="ADDRESS", help="let spectators watch published sessions here")
    parser.add_argument("--curve", metavar="KEY", help="the server's key: a name (`dsa keys new`) or a secret file")
    parser.add_argument(
        "--allow", type=Path, metavar="FILE", help="public keys to let in (default with --curve: the user's allow-list)"
    )
    parser.add_argument("--record", type=Path, metavar="DIR", help="write a recording of every session here")
    parser.add_argument(
        "--max-sessions", type=positive, default=64, metavar="N", help="refuse more (default: %(default)s)"
    )
    parser.add_argument(
        "--lease-s",
        type=_seconds,
        default=10.0,
        metavar="S",
        help="close a session that nothing was heard of for so long (default: %(default)g)",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads per graph (default: one per usable core)")
    add_device(parser)
    parser.add_argument(
        "--quality", type=float, metavar="ALPHA", help="share of frames that may lie further than the worlds' delta"
    )
    parser.add_argument(
        "--metrics",
        metavar="HOST:PORT",
        help="answer /metrics (Prometheus) and /healthz over HTTP; PORT means loopback",
    )
    parser.add_argument("--log", choices=("text", "json"), default="text", help="on stderr (default: %(default)s)")
    parser.add_argument(
        "--drain-s",
        type=_seconds,
        default=10.0,
        metavar="S",
        help="how long clients have to fetch their sessions when it ends (default: %(default)g)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON: a line when it is ready, a document at the end"
    )


def run(options: argparse.Namespace) -> Result:
    from ..serving.log import Log, logging_to
    from ..serving.observers import Observers
    from ..serving.server import Server
    from ..serving.service import notify

    started = monotonic()
    health = _Health()
    with logging_to(options.log), ExitStack() as stack:
        config = _config(options)
        worlds = _load(options, stack)
        observers: list[Observer] = [Log()]
        metrics_address = None
        if options.metrics is not None:
            from ..serving.endpoint import Endpoint
            from ..serving.metrics import Metrics

            observers.append(metrics := Metrics(worlds.values()))
            endpoint = Endpoint(options.metrics, metrics.text, health.ailment)
            stack.callback(endpoint.close)
            metrics_address = endpoint.address
        server = Server(worlds, config, Observers(*observers))
        server.bind()
        health.server = server
        stack.enter_context(_draining_on_signals(server))
        stack.enter_context(_watchdog(health))
        ready = {
            "ready": True,
            "address": server.address,
            "publish": server.publish_address,
            "metrics": metrics_address,
            "worlds": list(worlds),
            "epoch": server.epoch,
        }
        print(json.dumps(ready) if options.json else _ready_text(ready), flush=True)
        notify("READY=1")
        server.run()
    document = {"address": ready["address"], "epoch": server.epoch, "seconds": round(monotonic() - started, 3)}
    return Result(document, f"ended after {document['seconds']:.0f} s")


class _Health:
    """Whether the server is well, for those who watch it."""

    def __init__(self) -> None:
        self.server: Server | None = None

    def ailment(self) -> str | None:
        """What keeps it from serving, or None."""
        if self.server is None:
            return "loading"
        if self.server.draining:
            return "draining"
        return None if self.is_alive() else f"the I/O loop has not come around for {_ALIVE_S:g} s or more"

    def is_alive(self) -> bool:
        """Whether the I/O loop comes around."""
        return self.server is not None and monotonic() - self.server.beat < _ALIVE_S


def _config(options: argparse.Namespace) -> ServerConfig:
    from ..serving.config import ServerConfig
    from ..serving.keys import default_allow_list
    from ..serving.security import Access

    access = None
    if options.curve is not None:
        access = Access.load(options.curve, options.allow or default_allow_list())
    elif options.allow is not None:
        raise ServingError(
            "--allow: needs the server's key as well (--curve KEY); without keys nobody can be told apart"
        )
    if options.record is not None:
        try:
            options.record.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ServingError(
                f"--record {options.record}: {error.strerror}; choose a folder that can be written"
            ) from None
    lease_ms = round(1000 * options.lease_s)
    return ServerConfig(
        options.bind,
        access=access,
        publish=options.publish,
        record=options.record,
        max_sessions=options.max_sessions,
        lease_ms=lease_ms,
        lease_most_ms=max(lease_ms, ServerConfig.lease_most_ms),
        drain_s=options.drain_s,
    )


def _load(options: argparse.Namespace, stack: ExitStack) -> dict[str, World]:
    """The worlds by name; closed with the stack."""
    from ..world import load_world

    worlds: dict[str, World] = {}
    for given in options.world or [None]:
        world = stack.enter_context(
            load_world(given, threads=options.threads, quality=options.quality, device=options.device)
        )
        if world.spec.name in worlds:
            raise ServingError(
                f"world {given}: there is one of the name {world.spec.name!r} already; serve it elsewhere"
            )
        worlds[world.spec.name] = world
    return worlds


@contextmanager
def _draining_on_signals(server: Server) -> Iterator[None]:
    """The first signal drains the server, the next one ends the process."""
    from ..serving.service import notify

    def drain(number: int, frame: FrameType | None) -> None:
        server.drain()
        notify("STOPPING=1")
        for each in _SIGNALS:
            # The system ends a process whatever it is doing, but not the first one, which a container's often is.
            signal.signal(each, _end_at_once if os.getpid() == 1 else signal.SIG_DFL)

    before = {each: signal.signal(each, drain) for each in _SIGNALS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _end_at_once(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)  # as shells say it


@contextmanager
def _watchdog(health: _Health) -> Iterator[None]:
    """Tell systemd that the I/O loop comes around, if it wants to know."""
    from ..serving.service import notify, watchdog_s

    interval_s = watchdog_s()
    if interval_s is None:
        yield
        return
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(interval_s / 3):
            if health.is_alive():
                notify("WATCHDOG=1")

    thread = threading.Thread(target=watch, name="dsa-watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _ready_text(ready: dict[str, Any]) -> str:
    more = "".join(f", {name} {ready[name]}" for name in ("publish", "metrics") if ready[name])
    return f"ready: {', '.join(ready['worlds'])} at {ready['address']}{more}, epoch {ready['epoch']}"


def _seconds(text: str) -> float:
    """A finite number of seconds above 0, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of seconds greater than 0, got {text}")
    return value
