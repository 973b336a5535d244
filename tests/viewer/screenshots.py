"""The pictures of docs/play.md, taken from the page as it is: `python -m tests.viewer.screenshots [FOLDER [NAME ...]]`.

Needs a machine that is quiet enough for the world to be on time, and says so where it is not.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.viewer.chromium import PATIENCE_MS, chromium, play

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_DESK = {"viewport": {"width": 1440, "height": 900}}
_PHONE = {"viewport": {"width": 375, "height": 700}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
_HOLDS = (("ArrowRight", 5), ("Space", 6), ("ArrowLeft", 11), ("Space", 5), ("ArrowLeft", 4), ("ArrowRight", 9))
_TICK_MS = 1000 / 17.5
_TICK = "() => Number(document.getElementById('tick').textContent.slice(5))"
_LATE = "() => parseInt(document.querySelector('.misses').textContent || '0')"


def main(folder: Path, *names: str) -> None:
    """Write the pictures there; all of them, or these."""
    with play("--seed", 3) as address, chromium() as browser:
        for name in names or _PICTURES:
            page = _PICTURES[name](browser, address)
            page.screenshot(path=(path := folder / f"{name}.png"))
            late = page.evaluate(_LATE)
            print(f"{path}: {late} late ticks in its charts, {path.stat().st_size >> 10} KiB", flush=True)
            page.context.close()


def _in_play(browser: Browser, address: str) -> Page:
    page = _open(browser, address, color_scheme="dark", **_DESK)
    _roam(page, 260)
    return page


def _forked(browser: Browser, address: str) -> Page:
    page = _open(browser, address, color_scheme="dark", **_DESK)
    page.keyboard.up(_roam(page, 200))
    page.keyboard.press("b")
    _roam(page, 240)
    return page


def _paused(browser: Browser, address: str) -> Page:
    page = _open(browser, address, color_scheme="light", **_DESK)
    key = _roam(page, 260)
    page.keyboard.press("p")
    page.wait_for_selector("body[data-playing=false]")
    page.keyboard.up(key)
    box = page.locator("#charts .plot").nth(1).bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.62 * box["width"], box["y"] + 40)
    page.wait_for_timeout(300)
    return page


def _on_a_phone(browser: Browser, address: str) -> Page:
    page = _open(browser, address, color_scheme="dark", **_PHONE)
    _roam(page, 140)
    return page


_PICTURES = {"play": _in_play, "play-fork": _forked, "play-paused": _paused, "play-phone": _on_a_phone}


def _open(browser: Browser, address: str, **options: Any) -> Page:
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(address)
    page.wait_for_selector("body[data-playing=true]")
    return page


def _roam(page: Page, ticks: int) -> str:
    """Play until that tick; the key that is still held."""
    for key, count in itertools.cycle(_HOLDS):
        page.keyboard.down(key)
        page.wait_for_timeout(count * _TICK_MS)
        if page.evaluate(_TICK) >= ticks:
            return key
        page.keyboard.up(key)
    raise AssertionError


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs"), *sys.argv[2:])
