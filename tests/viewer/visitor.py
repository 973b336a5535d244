"""A page server, and visitors of it that are no browsers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from dsa_runtime import World
from dsa_runtime.viewer.command import Settings
from dsa_runtime.viewer.config import ViewerConfig
from dsa_runtime.viewer.hello import play_hello
from dsa_runtime.viewer.inbox import Inbox
from dsa_runtime.viewer.outbox import Outbox
from dsa_runtime.viewer.page import Page
from dsa_runtime.viewer.player import Player
from tests.viewer.unpack import Unpacked, unpack

PATIENCE_S = 60.0


@asynccontextmanager
async def playing(world: World, players: list[Player] | None = None, **changes: Any) -> AsyncIterator[Page]:
    """The page of a world, at any free port of this machine. Adds what its tabs play to `players`."""
    settings = Settings(0, None, world.spec.calibration.default_threshold, 0)

    def make(inbox: Inbox, out: Outbox) -> Player:
        player = Player(world, settings, 3, lambda: inbox.held, out)
        if players is not None:
            players.append(player)
        return player

    page = Page(play_hello(world, "a test"), make, ViewerConfig(**{"port": 0, **changes}))
    async with page.serving():
        yield page


class Visitor:
    """A tab. Made by `visit`; acknowledges what it gets unless it is told not to."""

    def __init__(self, link: aiohttp.ClientWebSocketResponse) -> None:
        self.link = link
        self.hello: dict[str, Any] = {}
        self.state: dict[str, Any] = {}
        self.problems: list[str] = []
        self.acknowledges = True

    async def do(self, name: str, **fields: Any) -> None:
        await self.link.send_json({"do": name, **fields})

    async def hold(self, *held: str, stamp: float = 0.0) -> None:
        await self.do("hold", held=held, moved=[], stamp=stamp)

    async def next(self) -> Unpacked | None:
        """The next message; pictures are returned, the rest is taken in."""
        message = await self.link.receive(PATIENCE_S)
        if message.type is aiohttp.WSMsgType.TEXT:
            said = json.loads(message.data)
            if said["is"] == "problem":
                self.problems.append(said["text"])
            else:
                setattr(self, said["is"], said)
            return None
        assert message.type is aiohttp.WSMsgType.BINARY, message
        if self.acknowledges and message.data[5] != 3:
            await self.do("seen")
        return unpack(message.data)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Take in what comes until this is so."""
        while not holds():
            await self.next()

    async def pictures(self, wanted: Callable[[Unpacked], bool] = lambda _: True) -> Unpacked:
        """The next pictures that are such."""
        while (seen := await self.next()) is None or not wanted(seen):
            pass
        return seen

    async def closed(self) -> int:
        """With which code the server hangs up."""

        async def read_on() -> None:
            async for _ in self.link:
                pass

        await asyncio.wait_for(read_on(), PATIENCE_S)
        assert self.link.close_code is not None
        return self.link.close_code


@asynccontextmanager
async def visit(page: Page, tab: str = "tab-number-1", **headers: str) -> AsyncIterator[Visitor]:
    """Connect as this server's own page does, but for these headers."""
    url = page.door.url.partition("?")[0]
    query = {"tab": tab, **({"token": page.door.token} if page.door.token else {})}
    async with aiohttp.ClientSession() as session:
        own = {"Origin": url.rstrip("/"), **headers}
        async with session.ws_connect(f"{url}socket", params=query, headers=own, max_msg_size=0) as link:
            yield Visitor(link)
