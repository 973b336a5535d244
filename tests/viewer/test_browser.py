"""The page in a real browser: keys, buttons and fingers play the world, and nothing on it breaks or jumps."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dsa_runtime import Box, Recording, World, connect, load_world
from dsa_runtime.replay import verify_replay
from tests.chunk_world import PROMPTS, write_chunk_world
from tests.serving.serve import private, serve
from tests.tiny_world import write_tiny_world
from tests.viewer.chromium import PATIENCE_MS, chromium, missing, play

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.slow, pytest.mark.skipif(missing() is not None, reason=str(missing()))]

PHONE = {"viewport": {"width": 375, "height": 700}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
WATCH_SHIFTS = """
new PerformanceObserver((list) => {
  for (const { value, hadRecentInput } of list.getEntries()) {
    if (!hadRecentInput) window.shifted = (window.shifted ?? 0) + value;
  }
}).observe({ type: 'layout-shift', buffered: true });
"""
PIXELS = """(lane) => {
  const shown = document.querySelectorAll('.lane canvas')[lane];
  const copy = new OffscreenCanvas(shown.width, shown.height).getContext('2d', { willReadFrequently: true });
  copy.drawImage(shown, 0, 0);
  return Array.from(copy.getImageData(0, 0, shown.width, shown.height).data);
}"""
PAINTED = """([chart, paint]) => {
  const shown = document.querySelectorAll('.chart canvas')[chart];
  const copy = new OffscreenCanvas(shown.width, shown.height).getContext('2d', { willReadFrequently: true });
  copy.drawImage(shown, 0, 0);
  const { data } = copy.getImageData(0, 0, shown.width, shown.height);
  let count = 0;
  for (let at = 0; at < data.length; at += 4) count += paint.every((value, part) => data[at + part] === value);
  return count;
}"""
WATCH_PICTURES = """() => {
  window.pictures = [];
  const put = CanvasRenderingContext2D.prototype.putImageData;
  CanvasRenderingContext2D.prototype.putImageData = function (image, ...place) {
    if (this.canvas.closest('.lane')) window.pictures.push(Array.from(image.data));
    return put.call(this, image, ...place);
  };
}"""
REEL = """async () => {
  const { Reel } = await import('/static/js/reel.js');
  let now = 0, next = null, drawn = [], reel = null;
  performance.now = () => now;
  window.requestAnimationFrame = (call) => { next = call; };
  const begin = (period) => {
    now = 0; next = null; drawn = [];
    reel = new Reel(period, ({ name, stamp }) => drawn.push(stamp === undefined ? [now, name] : [now, name, stamp]));
  };
  const screen = (...times) => times.forEach((time) => { now = time; const call = next; next = null; call?.(); });
  const add = (time, stamp, ...names) => {
    now = time;
    const frames = names.map((name) => ({ name }));
    if (stamp) frames[0].stamp = stamp;
    reel.add(frames);
  };
  const every = (from, to) => Array.from({ length: (to - from) / 5 + 1 }, (_, index) => from + 5 * index);
  const seen = {};
  begin(100);
  add(0, 0, 'a1', 'a2', 'a3', 'a4'); screen(...every(0, 200));
  seen.even = drawn;
  begin(100);
  add(0, 0, 'a1', 'a2', 'a3', 'a4'); screen(...every(0, 70));
  add(71, 0, 'b1', 'b2', 'b3', 'b4'); screen(...every(75, 300));
  seen.early = drawn;
  begin(100);
  add(0, 0, 'a1', 'a2', 'a3', 'a4'); screen(0, 75);
  add(80, 7, 'b1', 'b2', 'b3', 'b4'); screen(110);
  seen.stalled = drawn;
  begin(10);
  add(0, 1, 'a'); add(3, 0, 'b'); screen(5);
  add(12, 0, 'c'); screen(15);
  seen.single = drawn;
  return seen;
}"""
CONFIDENCE = 1  # the second chart
STEPS = [[44, 122, 140], [72, 187, 158], [244, 205, 100], [238, 118, 82]]  # colours, of a schedule of four
Open = Callable[..., "Page"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(tiny_package: Path) -> Iterator[str]:
    with play(tiny_package, "--threads", 1, "--seed", 3, "--budget-ms", 60_000, "--tabs", 16) as address:
        yield address


@pytest.fixture(scope="module")
def arm_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    space = Box((-1.0, -1.0), (1.0, 1.0), ("shoulder", "elbow"), ("rad/s", "rad/s"))
    return write_tiny_world(tmp_path_factory.mktemp("worlds") / "arm", space, name="arm")


@pytest.fixture(scope="module")
def arm_address(arm_package: Path) -> Iterator[str]:
    with play(arm_package, "--threads", 1, "--seed", 3, "--budget-ms", 60_000) as address:
        yield address


@pytest.fixture(scope="module")
def chunks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chunk_world(tmp_path_factory.mktemp("worlds") / "chunks")


@pytest.fixture(scope="module")
def chunks_address(chunks: Path) -> Iterator[str]:
    with play(chunks, "--threads", 1, "--seed", 3, "--budget-ms", 60_000, "--prompt", PROMPTS[1]) as address:
        yield address


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Open]:
    """Open the page, paused before its first tick and started over; at the end nothing may have gone wrong on it."""
    problems: list[str] = []
    contexts = []

    def open(address: str = address, **options: Any) -> Page:
        context = browser.new_context(**options)
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: problems.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.add_init_script(WATCH_SHIFTS)
        page.goto(address)
        page.wait_for_selector("body[data-playing=true]")
        page.keyboard.press("p")
        page.wait_for_selector("body[data-playing=false]")
        page.keyboard.press("r")
        ticks(page, 0)
        return page

    yield open
    for context in contexts:
        context.close()
    assert problems == []


def ticks(page: Page, count: int) -> None:
    """Wait until the page shows so many."""
    page.wait_for_function("(wanted) => document.getElementById('tick').textContent === wanted", arg=f"tick {count}")


def pixels(page: Page, lane: int = 0) -> np.ndarray:
    """What is on the canvas."""
    return np.array(page.evaluate(PIXELS, lane), np.uint8).reshape(8, 8, 4)[..., :3]


def painted(page: Page, paint: list[int], expected: bool) -> None:
    """Wait until the chart of the confidence has something in this colour, or nothing."""
    page.wait_for_function(f"(asked) => (({PAINTED})(asked) > 0) === {str(expected).lower()}", arg=[CONFIDENCE, paint])


def frames(world: World, actions: list[int], steps: int | None = None) -> list[np.ndarray]:
    with world.session(3, threshold=world.spec.calibration.default_threshold) as session:
        return [session.step(action, math.inf, steps=steps).pixels for action in actions]


def test_keys_move_the_world_and_time_goes_back(visit: Open, tiny_world: World) -> None:
    page = visit()
    for count, key in enumerate(["Space", "ArrowLeft", "d"], 1):
        page.keyboard.down(key)
        assert page.locator(".pad.lit").count() == 1
        page.keyboard.press(".")
        ticks(page, count)
        page.keyboard.up(key)
    drawn = frames(tiny_world, [3, 1, 2])
    np.testing.assert_array_equal(pixels(page), drawn[2])
    assert " of 4 steps: " in page.inner_text("#sentence")
    page.keyboard.press(",")
    ticks(page, 2)
    np.testing.assert_array_equal(pixels(page), drawn[1])
    page.focus("#timeline")
    page.keyboard.press("ArrowLeft")  # on the slider it is not the world's key
    ticks(page, 1)
    np.testing.assert_array_equal(pixels(page), drawn[0])
    page.keyboard.press("Escape")
    page.keyboard.down("ArrowLeft")
    page.keyboard.press(".")
    ticks(page, 2)
    np.testing.assert_array_equal(pixels(page), drawn[1])


def test_the_confidence_after_each_step_is_drawn(visit: Open) -> None:
    page = visit()
    page.focus("#quality")
    page.keyboard.press("End")
    page.wait_for_function("() => document.getElementById('quality-out').textContent === 'whole schedule'")
    painted(page, STEPS[0], False)
    page.click("#step")
    ticks(page, 1)
    for early in STEPS[:-1]:  # the last one is what the line joins
        painted(page, early, True)
    painted(page, STEPS[-1], False)


def test_a_watched_session_shows_what_is_decided(browser: Browser, tiny_world: World, tmp_path: Path) -> None:
    publish = f"ipc://{private(tmp_path / 'shown')}/frames"
    problems: list[str] = []
    with (
        serve(tiny_world, tmp_path, publish=publish, load_most=math.inf) as server,
        connect(server.address) as client,
        client.session(3, threshold=1.0, publish=True) as session,
        play("--watch", server.address) as address,
    ):
        page = browser.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda said: problems.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        while not page.inner_text("#sentence").startswith("tick "):  # until the subscription has arrived
            session.step(0, math.inf)
            page.wait_for_timeout(20)
        session.step(1, math.inf)
        shown = f"tick {session.tick - 1} · 4 of 4 steps: the whole schedule; "
        page.wait_for_function(
            "(words) => document.getElementById('sentence').textContent.startsWith(words)", arg=shown
        )
        painted(page, STEPS[0], True)
        session.reset(5)
        page.wait_for_function("() => document.getElementById('sentence').textContent === 'before tick 0'")
        painted(page, STEPS[0], False)
        page.close()
    assert problems == []


def test_it_plays_at_its_rate_and_measures_it(visit: Open) -> None:
    page = visit()
    page.keyboard.press("p")
    page.keyboard.down("Space")
    page.wait_for_function("() => Number(document.getElementById('tick').textContent.slice(5)) > 30")
    page.wait_for_function("() => Number(document.getElementById('fps').textContent) > 1")
    page.wait_for_function("() => Number(document.getElementById('lag').textContent) > 0")
    page.click("#play")
    page.wait_for_selector("body[data-playing=false]")
    assert page.evaluate("document.activeElement.id") == "stage", "the keys are the world's again"
    shown = page.inner_text("#tick")
    page.keyboard.press("f")
    assert page.inner_text("#tick") == shown
    assert page.evaluate("window.shifted ?? 0") < 0.01, "something on the page has jumped"


def test_a_tap_that_is_shorter_than_a_tick_counts(visit: Open) -> None:
    page = visit()
    sent: list[dict[str, Any]] = []
    page.on("websocket", lambda link: link.on("framesent", lambda frame: sent.append(json.loads(frame))))
    page.reload()  # the tab's session is still there
    page.wait_for_selector("body[data-playing=false]")
    page.evaluate("""() => {
      dispatchEvent(new KeyboardEvent('keydown', { code: 'Space' }));
      dispatchEvent(new KeyboardEvent('keyup', { code: 'Space' }));
      dispatchEvent(new KeyboardEvent('keydown', { code: 'Period' }));
    }""")
    ticks(page, 1)
    page.wait_for_function("() => document.querySelectorAll('.pad.lit').length === 0")
    told = [message.get("held", message["do"]) for message in sent if message["do"] in ("hold", "step")]
    assert told[-3:] == [["fire"], "step", []]


def test_two_side_by_side_and_one_is_kept(visit: Open, tiny_world: World) -> None:
    page = visit()
    page.keyboard.press("b")
    page.wait_for_selector(".stage[data-lanes='2']")
    page.keyboard.down("Space")
    page.keyboard.press(".")
    ticks(page, 1)
    np.testing.assert_array_equal(pixels(page, 0), frames(tiny_world, [3])[0])
    np.testing.assert_array_equal(pixels(page, 1), frames(tiny_world, [3], steps=4)[0])
    assert "grey levels apart" in page.inner_text("#sentence")
    page.click("#steps button[data-value='1']")  # of B, which is what one wants to change
    page.keyboard.press(".")
    ticks(page, 2)
    assert "1 of 4 steps, as asked for" in page.inner_text(".lane[data-lane='1'] .what")
    page.click(".lane[data-lane='1'] .keep")
    page.wait_for_selector(".stage[data-lanes='1']")
    page.keyboard.press(".")
    ticks(page, 3)
    assert page.inner_text("#sentence").startswith("1 of 4 steps, as asked for")


def test_the_pictures_of_a_tick_come_one_after_the_other(visit: Open, chunks: Path, chunks_address: str) -> None:
    page = visit(chunks_address)
    page.evaluate(WATCH_PICTURES)
    page.click("#step")
    ticks(page, 1)
    page.select_option("#prompt", PROMPTS[0])
    page.wait_for_function("(told) => document.getElementById('prompt').title === told", arg=PROMPTS[0])
    with load_world(chunks, threads=1) as world, world.session(3, threshold=0.5, prompt=PROMPTS[1]) as session:
        first = session.step(0, math.inf).frames
        session.set_prompt(PROMPTS[0])
        second = session.step(0, math.inf).frames
    shown(page, first)
    page.click("#step")
    ticks(page, 2)
    shown(page, second)
    page.keyboard.press("b")
    page.wait_for_selector(".stage[data-lanes='2']")
    page.select_option("#prompt", PROMPTS[1])  # of B
    page.wait_for_function("(told) => document.querySelectorAll('.how')[1].textContent.endsWith(told)", arg=PROMPTS[1])
    assert page.locator(".how").nth(0).inner_text().endswith(PROMPTS[0])
    page.keyboard.press(",")  # what was made with another prompt cannot be gone back to
    page.keyboard.press(".")
    ticks(page, 3)


def shown(page: Page, frames: np.ndarray) -> None:
    """These pictures are drawn, in order, up to the last; a browser that is held up leaves some out."""
    left = [picture.tobytes() for picture in frames]
    page.wait_for_function("(wanted) => window.pictures.at(-1)?.join() === wanted", arg=rgba(frames[-1]))
    drawn = [np.array(picture, np.uint8).reshape(8, 8, 4)[..., :3].tobytes() for picture in taken(page)]
    for picture in itertools.dropwhile(lambda picture: picture not in left, drawn):  # where it stood may come first
        assert picture in left
        del left[: left.index(picture) + 1]
    assert left == []


def taken(page: Page) -> list[list[int]]:
    drawn: list[list[int]] = page.evaluate("window.pictures.splice(0)")
    return drawn


def rgba(picture: np.ndarray) -> str:
    return ",".join(map(str, np.insert(picture, 3, 255, axis=-1).ravel()))


def test_a_reel_keeps_the_time_of_its_pictures(visit: Open) -> None:
    """Under a clock and a screen of this test."""
    assert visit().evaluate(REEL) == {
        # Evenly over the period.
        "even": [[0, "a1"], [25, "a2"], [50, "a3"], [75, "a4"]],
        # What is left of the tick before is drawn faster with the next.
        "early": [[0, "a1"], [25, "a2"], [50, "a3"], [75, "a4"], [95, "b1"], [115, "b2"], [135, "b3"], [155, "b4"]],
        # A screen that stands still shows what is due then, and answers the input of what it left out.
        "stalled": [[0, "a1"], [75, "a4"], [110, "b2", 7]],
        # Of single pictures only the newest.
        "single": [[5, "b", 1], [15, "c"]],
    }


def test_settings_and_the_recording(visit: Open, tiny_world: World, tmp_path: Path) -> None:
    page = visit(accept_downloads=True)
    page.focus("#budget")
    page.keyboard.press("Home")
    page.wait_for_function("() => document.getElementById('budget-out').textContent === '1 ms'")
    page.keyboard.press("End")
    page.wait_for_function("() => document.getElementById('budget-out').textContent === 'no limit'")
    page.focus("#quality")
    page.keyboard.press("End")
    page.wait_for_function("() => document.getElementById('quality-out').textContent === 'whole schedule'")
    page.click("#step")
    ticks(page, 1)
    assert page.inner_text("#sentence").startswith("4 of 4 steps: the whole schedule")
    page.fill("#seed", "1")
    page.keyboard.press("Enter")
    ticks(page, 0)
    page.click("#step")
    ticks(page, 1)
    with page.expect_download() as download:
        page.click("#save")
    download.value.save_as(tmp_path / "saved")
    recording = Recording.load(tmp_path / "saved")
    assert (recording.seed, verify_replay(tiny_world, recording)) == (1, 1)


def test_a_phone_has_room_for_picture_and_fingers(visit: Open, tiny_world: World) -> None:
    page = visit(**PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    for what in ("#stage canvas", "#play", "#timeline", ".pad >> nth=0", ".pad >> nth=2"):
        box = page.locator(what).first.bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= 375, what
        assert box["y"] + box["height"] <= 700, f"{what} is below the fold"
    finger = {"pointerId": 5, "isPrimary": True, "bubbles": True, "pointerType": "touch"}
    page.evaluate("Element.prototype.setPointerCapture = () => {}")  # of a finger that only this test has
    page.dispatch_event(".pad:has-text('left')", "pointerdown", finger)
    assert page.locator(".pad.lit").inner_text() == "left"
    page.tap("#step")
    ticks(page, 1)
    page.dispatch_event(".pad:has-text('left')", "pointerup", finger)
    page.wait_for_function("() => document.querySelectorAll('.pad.lit').length === 0")
    np.testing.assert_array_equal(pixels(page), frames(tiny_world, [1])[0])
    page.tap("#fork")
    page.wait_for_selector(".stage[data-lanes='2']")
    assert page.evaluate("document.documentElement.scrollWidth") == 375


def test_sliders_and_gamepads_move_what_has_axes(visit: Open, arm_package: Path, arm_address: str) -> None:
    page = visit(arm_address)
    page.keyboard.down("d")
    assert page.locator(".axis.lit output").inner_text() == "+1.00 rad/s"
    page.keyboard.press(".")
    ticks(page, 1)
    page.keyboard.up("d")
    page.evaluate("""() => {
      const pad = { connected: true, index: 0, buttons: [], axes: [0, 0.5, 0, 0] };
      navigator.getGamepads = () => [null, pad];
      dispatchEvent(new Event('gamepadconnected'));
    }""")
    page.wait_for_function("() => document.querySelector('.axis.lit output')?.textContent === '\\u22120.50 rad/s'")
    page.keyboard.press(".")
    ticks(page, 2)
    with load_world(arm_package, threads=1) as world, world.session(3) as session:
        session.step([1.0, 0.0], math.inf)
        np.testing.assert_array_equal(pixels(page), session.step([0.0, -0.5], math.inf).pixels)
    page.evaluate("navigator.getGamepads = () => []; dispatchEvent(new Event('gamepaddisconnected'))")
    assert page.locator(".axis.lit").count() == 0
