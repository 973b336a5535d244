"""`dsa play`: a world in the browser, with what the runtime decides under it.

Serves a page on this machine and opens it. With --watch it looks on at a running `dsa serve` instead. docs/play.md says
what is on the page.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
import threading
import webbrowser
from contextlib import ExitStack
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..errors import BudgetError, ServingError
from .arguments import add_device, add_json, add_positional_world, add_prompt, check_prompt, positive
from .machine import describe_machine
from .result import Result

if TYPE_CHECKING:
    from ..viewer.door import Door
    from ..viewer.page import Page
    from ..viewer.tabs import Make

HELP = "play a world in the browser, and see what is decided"
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_WATCH_TIMEOUT_MS = 2000.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_positional_world(parser)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="HOST",
        help="address to listen at; others than this machine's own need the token in the URL (default: %(default)s)",
    )
    parser.add_argument(
        "--port", type=_port, metavar="N", help="0 for any (default: the first free one from 8420 to 8429)"
    )
    parser.add_argument("--no-browser", action="store_true", help="print the address and open nothing")
    parser.add_argument(
        "--budget-ms", type=float, metavar="MS", help="wall time per tick to begin with (default: the world's period)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="start context and noise (default: %(default)s)"
    )
    parser.add_argument(
        "--quality",
        type=float,
        metavar="ALPHA",
        help="share of frames that may lie further than the world's delta from the full schedule's, to begin with",
    )
    add_prompt(parser)
    add_device(parser)
    parser.add_argument("--threads", type=int, metavar="N", help="threads per graph (default: one per usable core)")
    parser.add_argument(
        "--tabs", type=positive, default=4, metavar="N", help="browser tabs at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--watch", metavar="ADDRESS", help="look on at the server there, tcp://HOST:PORT or ipc:///PATH (see --publish)"
    )
    parser.add_argument("--key", metavar="KEY", help="with --watch, for a server with CURVE: this client's key")
    parser.add_argument("--server-key", metavar="KEY", help="with --watch, for a server with CURVE: its public key")
    add_json(parser)


def run(options: argparse.Namespace) -> Result:
    from ..viewer.config import ViewerConfig

    try:
        from ..viewer.page import Page
    except ModuleNotFoundError as missing:
        needed = f"the page needs {missing.name}, which is not installed: pip install 'dsa-runtime[viewer]'"
        raise ServingError(needed) from None

    config = ViewerConfig(options.host, options.port, options.tabs)
    started = monotonic()
    with ExitStack() as stack:
        hello, make = _watching(options) if options.watch is not None else _playing(options, stack)
        page = Page(hello, make, config)
        asyncio.run(_serve(page, options))
    document = {"url": page.door.url, "seconds": round(monotonic() - started, 3)}
    return Result(document, f"ended after {document['seconds']:.0f} s")


def _playing(options: argparse.Namespace, stack: ExitStack) -> tuple[dict[str, Any], Make]:
    from ..arguments import check_budget, check_seed
    from ..viewer.command import LEAST_BUDGET_MS, MOST_BUDGET_MS, Settings
    from ..viewer.hello import play_hello
    from ..viewer.player import Player
    from ..world import load_world

    for name in ("key", "server_key"):
        if getattr(options, name) is not None:
            raise ServingError(f"--{name.replace('_', '-')}: is for --watch; leave it out")
    seed = check_seed(options.seed)
    budget_ms = options.budget_ms
    if budget_ms is not None and not LEAST_BUDGET_MS <= check_budget(budget_ms) <= MOST_BUDGET_MS:
        problem = f"must lie in {LEAST_BUDGET_MS:g}..{MOST_BUDGET_MS:g} (on the page it can be without limit)"
        raise BudgetError(f"--budget-ms: {problem}, got {budget_ms:g}")
    world = stack.enter_context(
        load_world(options.world, threads=options.threads, quality=options.quality, device=options.device)
    )
    spec = world.spec
    check_prompt(spec, options.prompt)
    settings = Settings(0, budget_ms or spec.frame.period_ms, spec.calibration.default_threshold, 0)
    machine = describe_machine()
    return (
        play_hello(world, f"{machine['cpu']}, {machine['cores']} cores"),
        lambda inbox, out: Player(world, settings, seed, lambda: inbox.held, out, options.prompt),
    )


def _watching(options: argparse.Namespace) -> tuple[dict[str, Any], Make]:
    from ..serving.client import connect
    from ..serving.link import ClientKeys
    from ..viewer.hello import watch_hello
    from ..viewer.watcher import Watcher

    if options.world is not None:
        raise ServingError("WORLD: the server of --watch has its own; leave one of the two out")
    given = {"key": options.key, "server_key": options.server_key}

    def reach() -> Any:
        return connect(options.watch, timeout_ms=_WATCH_TIMEOUT_MS, **given)

    with reach() as server:  # whatever is wrong with the address shall be said at once
        if server.publish_address is None:
            raise ServingError(f"--watch {options.watch}: it does not publish frames; start it with --publish ADDRESS")
        hello = watch_hello(server.spec, options.watch)
    keys = None if options.key is None else ClientKeys.load(options.key, options.server_key)
    return hello, lambda inbox, out: Watcher(reach, keys, out)


async def _serve(page: Page, options: argparse.Namespace) -> None:
    ended, loop = asyncio.Event(), asyncio.get_running_loop()

    def end() -> None:
        ended.set()
        for number in _SIGNALS:  # the next one does what signals do by default
            loop.remove_signal_handler(number)

    for number in _SIGNALS:
        loop.add_signal_handler(number, end)
    async with page.serving():
        url = page.door.url
        print(json.dumps({"ready": True, "url": url}) if options.json else _ready_text(page.door), flush=True)
        if not options.no_browser and _has_screen():
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        await ended.wait()


def _ready_text(door: Door) -> str:
    elsewhere = f"\nfrom other machines: {door.url_at(socket.gethostname())}" if door.is_anywhere else ""
    return f"{door.url}  (Ctrl-C ends it){elsewhere}"


def _has_screen() -> bool:
    """Without one, `webbrowser` would fill the terminal with a text browser."""
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) >= 1 << 16:
        raise argparse.ArgumentTypeError(f"must be a number in 0..65535, got {text}")
    return int(text)
