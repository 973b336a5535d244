"""The server over real sockets: who is let in, and what tabs do to each other and to the world."""

from __future__ import annotations

import asyncio
import math
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from dsa_runtime import Recording, ServingError, World, load_world
from dsa_runtime.viewer import page as pages
from dsa_runtime.viewer.config import ViewerConfig
from dsa_runtime.viewer.door import Door
from dsa_runtime.viewer.player import Player
from tests.viewer.visitor import playing, visit


async def status(url: str, **headers: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as reply:
        await reply.read()
        return reply.status


async def refused(page: pages.Page, **headers: str) -> int:
    with pytest.raises(aiohttp.WSServerHandshakeError) as error:
        async with visit(page, **headers):
            pass
    return error.value.status


def test_what_is_held_moves_the_world_and_the_recording_draws_it_again(tiny_world: World, tmp_path: Path) -> None:
    async def scene() -> tuple[np.ndarray, bytes]:
        async with playing(tiny_world) as page, visit(page) as tab:
            await tab.do("pause")
            await tab.until(lambda: tab.state.get("playing") is False)
            assert tab.hello["world"]["name"] == "tiny" and tab.hello["world"]["aspect"] == [4, 3]
            assert [button["name"] for button in tab.hello["controls"]["buttons"]] == ["left", "right", "fire"]
            await tab.do("reset", seed="1")
            await tab.pictures(lambda seen: seen.head == {"tick": 0})
            await tab.hold("fire", stamp=77.5)
            await tab.do("step")
            seen = await tab.pictures(lambda seen: seen.kind == "ticks" and seen.head["stamp"] == 77.5)
            await tab.do("save", lane=0)
            return seen.pictures[0], (await tab.pictures(lambda seen: seen.kind == "file")).rest

    pixels, saved = asyncio.run(scene())
    with tiny_world.session(1, threshold=0.5) as session:
        np.testing.assert_array_equal(pixels, session.step(3, math.inf).pixels)
    (path := tmp_path / "saved").write_bytes(saved)
    assert [decision.action for decision in Recording.load(path).decisions] == [3]


def test_only_this_servers_own_page_may_drive_it(tiny_world: World) -> None:
    async def scene() -> None:
        async with playing(tiny_world) as page:
            url, port = page.door.url, page.door.port
            assert await status(url) == 200
            assert await status(url, Host=f"localhost:{port}") == 200
            assert await status(url, Host=f"rebound.example:{port}") == 403
            assert await status(f"{url}static/js/main.js", Host="rebound.example") == 403
            assert await status(f"{url}static/%2e%2e/page.py") in (403, 404)
            for headers in (
                {"Origin": "http://evil.example"},
                {"Origin": "null"},
                {"Origin": f"http://127.0.0.1:{port + 1}"},  # another program on this machine
                {"Origin": f"https://127.0.0.1:{port}"},
                {"Host": f"rebound.example:{port}", "Origin": f"http://rebound.example:{port}"},
            ):
                assert await refused(page, **headers) == 403, headers
            async with visit(page) as tab:
                await tab.pictures()

    asyncio.run(scene())


def test_other_machines_need_the_token(tiny_world: World) -> None:
    async def scene() -> None:
        async with playing(tiny_world, host="0.0.0.0") as page:
            assert page.door.token is not None and page.door.url.endswith(f"/?token={page.door.token}")
            assert await status(page.door.url, Host="any.name:1") == 200
            assert await status(page.door.url.partition("?")[0]) == 403
            assert await status(page.door.url + "x") == 403
            async with visit(page) as tab:
                await tab.pictures()
            page.door = Door("0.0.0.0", page.door.port, "another one")
            assert await status(page.door.url.partition("?")[0] + "?token=ünicode") == 403

    asyncio.run(scene())


def test_what_is_no_command_is_answered_and_nothing_ends(tiny_world: World) -> None:
    async def scene() -> None:
        async with playing(tiny_world) as page, visit(page) as tab:
            await tab.link.send_str("what?")
            await tab.link.send_bytes(b"\0")
            await tab.do("rewind", tick=-5)
            await tab.until(lambda: len(tab.problems) == 3)
            assert "not valid JSON" in tab.problems[0] and "text message" in tab.problems[1]
            assert "are kept" in tab.problems[2]
            await tab.hold("nonsense")
            await tab.until(lambda: tab.state.get("playing") is False)
            await tab.hold()
            await tab.do("play")
            await tab.pictures(lambda seen: seen.kind == "ticks")
        async with playing(tiny_world) as page:
            assert await refused_tab(page, "short") == 400
            async with visit(page, "tab-number-2") as tab:
                await tab.link.send_str("x" * (1 << 17))
                assert await tab.closed() == aiohttp.WSCloseCode.MESSAGE_TOO_BIG

    async def refused_tab(page: pages.Page, name: str) -> int:
        with pytest.raises(aiohttp.WSServerHandshakeError) as error:
            async with visit(page, name):
                pass
        return error.value.status

    asyncio.run(scene())


def test_a_tab_that_does_not_read_sees_the_newest_picture_next(tiny_world: World) -> None:
    async def scene() -> None:
        players: list[Player] = []
        async with playing(tiny_world, players) as page, visit(page) as slow, visit(page, "tab-number-2") as other:
            slow.acknowledges = False
            unseen = [await slow.pictures() for _ in range(3)]
            first = unseen[-1].head["lanes"][0]["tick"]
            while min(player.beats for player in players) < first + 10:
                await other.pictures()  # which comes on meanwhile
            await slow.do("seen")
            newest = await slow.pictures()
            assert newest.head["lanes"][0]["tick"] >= first + 8

    asyncio.run(scene())


def test_a_closed_tab_is_paused_and_goes_on_where_it_was(tiny_world: World) -> None:
    async def scene() -> None:
        players: list[Player] = []
        async with playing(tiny_world, players, tabs=1) as page:
            async with visit(page) as tab:
                await tab.pictures(lambda seen: seen.kind == "ticks")
                async with visit(page, "tab-number-2") as other:
                    assert await other.closed() == pages.FULL
            (player,) = players
            while player.runs:
                await asyncio.sleep(0.01)
            made = player.beats
            async with visit(page) as again:
                seen = await again.pictures(lambda seen: seen.kind == "ticks")
                assert seen.head["lanes"][0]["tick"] >= made > 0, "it is the same session"
                async with visit(page) as copy:
                    assert await again.closed() == pages.TAKEN_OVER
                    await copy.pictures(lambda seen: seen.kind == "ticks")
            assert players == [player]

    asyncio.run(scene())


def test_the_end_of_the_server_closes_sessions_and_sockets(tiny_package: Path) -> None:
    async def scene(world: World) -> None:
        async with AsyncExitStack() as visitors:
            async with playing(world) as page:
                tab = await visitors.enter_async_context(visit(page))
                await tab.do("fork")
                await tab.until(lambda: len(tab.state.get("lanes", ())) == 2)
                code = asyncio.ensure_future(tab.closed())
            assert await code == aiohttp.WSCloseCode.GOING_AWAY

    with load_world(tiny_package, threads=1) as world:
        asyncio.run(scene(world))
        assert world.slots == 0


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"host": "example.invalid"}, "--host example.invalid"),
        ({"host": "192.0.2.1", "port": 0}, "--host 192.0.2.1"),
    ],
)
def test_an_address_that_is_none_is_refused(tiny_world: World, settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ServingError, match=problem):
        pages._bind(ViewerConfig(**settings))


def test_a_port_in_use_is_refused_or_the_next_one_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with pages._bind(ViewerConfig(port=0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServingError, match=f"port {port}: in use"):
            pages._bind(ViewerConfig(port=port))
        with pages._bind(ViewerConfig(port=0)) as free:
            other = free.getsockname()[1]
        monkeypatch.setattr(pages, "PORTS", (port, other))
        with pages._bind(ViewerConfig()) as found:
            assert found.getsockname()[1] == other
