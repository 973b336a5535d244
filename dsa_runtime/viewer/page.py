"""Page: the HTTP and WebSocket server of `dsa play`. It all runs on one event loop, which never waits for a tick."""

from __future__ import annotations

import asyncio
import errno
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from ..errors import BusyError, ServingError
from .command import MOST_BYTES, Seen, read_command
from .config import PORTS, ViewerConfig
from .door import Door
from .tabs import Hang, Make, Tab, Tabs

STATIC = Path(__file__).with_name("static")
TAKEN_OVER, FULL = 4001, 4003
"""Close codes of the WebSocket: another page has this tab's name; there are as many tabs as there may be."""
_TAB = re.compile(r"[A-Za-z0-9-]{8,64}")
_HEARTBEAT_S = 10.0
_LOOK_S = 1.0
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src {}; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'"
)
_HOST = re.compile(r"[A-Za-z0-9.-]+(:[0-9]+)?")
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Page:
    """The server. Use `serving`."""

    def __init__(self, hello: dict[str, Any], make: Make, config: ViewerConfig) -> None:
        """hello   what a page must know first, as plain JSON values; see `PAGE.md`
        make    what a tab drives
        """
        self._hello, self._config = hello, config
        self._tabs = Tabs(make, config.tabs, config.keep_s)
        self._links: set[web.WebSocketResponse] = set()
        self._socket = _bind(config)
        self.door = Door.of(config.host, self._socket.getsockname()[1])

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Page]:
        """Answers while the context lasts; then ends every tab."""
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/", self._index)
        app.router.add_get("/socket", self._connect)
        app.router.add_static("/static", STATIC)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.SockSite(runner, self._socket).start()
            looking = asyncio.create_task(self._look_around())
            try:
                yield self
            finally:
                looking.cancel()
        finally:
            self._tabs.end()
            for link in list(self._links):
                await link.close(code=WSCloseCode.GOING_AWAY, message=b"dsa play has ended")
            await runner.cleanup()
            await asyncio.to_thread(self._tabs.join)

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        host = request.headers.get("Host", "")
        refusal = self.door.refuse_host(host)
        if refusal is not None:
            raise web.HTTPForbidden(text=refusal)
        response = await handler(request)
        if not response.prepared:
            response.headers.update(_HEADERS)
            response.headers["Content-Security-Policy"] = _POLICY.format(_own(host))
        return response

    async def _index(self, request: web.Request) -> web.StreamResponse:
        self._check_token(request)
        return web.FileResponse(STATIC / "index.html")

    async def _connect(self, request: web.Request) -> web.StreamResponse:
        self._check_token(request)
        refusal = self.door.refuse_origin(request.headers.get("Origin"), request.headers.get("Host", ""))
        if refusal is not None:
            raise web.HTTPForbidden(text=refusal)
        name = request.query.get("tab", "")
        if _TAB.fullmatch(name) is None:
            raise web.HTTPBadRequest(text="tab: expected 8 to 64 letters, digits and hyphens")
        link = web.WebSocketResponse(heartbeat=_HEARTBEAT_S, max_msg_size=MOST_BYTES, compress=False)
        await link.prepare(request)
        loop, news = asyncio.get_running_loop(), asyncio.Event()
        closing: list[asyncio.Task[bool]] = []

        def ring() -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(news.set)

        def hang_up() -> None:
            closing.append(loop.create_task(link.close(code=TAKEN_OVER, message=b"another page has taken over")))

        try:
            tab = self._tabs.attach(name, ring, hang_up)
        except BusyError as full:
            await link.close(code=FULL, message=str(full).encode())
            return link
        sending = asyncio.create_task(self._send(link, tab, hang_up, news))
        self._links.add(link)
        try:
            await self._receive(link, tab)
        finally:
            self._links.discard(link)
            sending.cancel()
            self._tabs.detach(tab, hang_up)
        return link

    async def _send(self, link: web.WebSocketResponse, tab: Tab, hang_up: Hang, news: asyncio.Event) -> None:
        with suppress(ConnectionError):
            await link.send_json({"is": "hello", **self._hello})
            while True:
                await news.wait()
                news.clear()
                if tab.hang_up is not hang_up:  # taken over: what there is goes to the other connection
                    return
                for message in tab.out.take():
                    await (link.send_str(message) if isinstance(message, str) else link.send_bytes(message))

    async def _receive(self, link: web.WebSocketResponse, tab: Tab) -> None:
        async for message in link:
            if message.type is not WSMsgType.TEXT:
                tab.out.complain("expected a text message")
                continue
            try:
                command = read_command(message.data)
                if isinstance(command, Seen):
                    tab.out.seen()
                else:
                    tab.inbox.put(command)
            except ServingError as error:
                tab.out.complain(str(error))

    async def _look_around(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            self._tabs.look_around()

    def _check_token(self, request: web.Request) -> None:
        refusal = self.door.refuse_token(request.query.get("token", ""))
        if refusal is not None:
            raise web.HTTPForbidden(text=refusal)


def _own(host: str) -> str:
    """Where the page may connect to: the server it came from. Not every browser counts a WebSocket as 'self', and a
    policy cannot name an IPv6 address."""
    return f"'self' ws://{host}" if _HOST.fullmatch(host) else "'self'"


def _bind(config: ViewerConfig) -> socket.socket:
    """A listening socket. Raises `ServingError`."""
    ports = PORTS if config.port is None else (config.port,)
    for port in ports:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                config.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listening = socket.socket(family, kind, protocol)
            try:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listening.bind(address)
                listening.listen()
            except BaseException:
                listening.close()
                raise
            return listening
        except UnicodeError:
            raise ServingError(f"--host {config.host}: not the name of a host; choose another one") from None
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                problem = f"--host {config.host} --port {port}: {error.strerror or error}; choose another one"
                raise ServingError(problem) from None
    busy = f"port {ports[0]}" if len(ports) == 1 else f"ports {ports[0]} to {ports[-1]}"
    raise ServingError(f"{busy}: in use by other programs; choose another one with --port, or --port 0 for any")
