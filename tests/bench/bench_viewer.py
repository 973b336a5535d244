"""The page of `dsa play` in a real browser: frames a second that reach the screen, and input-to-picture latency.

    python -m tests.bench.bench_viewer [--world W] [--seconds 20] [--inputs 200] [--threads N] [--json FILE]

Headless Chromium without a GPU, 1440x900, beside `dsa play` on the same machine: the browser's drawing takes from the
same cores as the world. An input is a key that goes down or up at a random time. Its latency ends in the frame of the
screen after the one that shows the first picture drawn under it; so it holds the wait for the next tick (half a period
in the mean), the tick, and one to two frames of the screen. The rate is that of pictures drawn, whatever was missed.

Prints a table, and as its last line one JSON document with the machine, the commit and the command.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsa_runtime import WorldSpec, load_world
from dsa_runtime.report.play import distribution
from dsa_runtime.report.table import table
from tests.bench.provenance import json_line
from tests.viewer.chromium import PATIENCE_MS, chromium, missing, play

if TYPE_CHECKING:
    from playwright.sync_api import CDPSession, Page

_LISTEN = """
window.dsaFrames = 0;
window.dsaInputs = [];
addEventListener('dsa-frame', () => { window.dsaFrames += 1; });
addEventListener('dsa-input', ({ detail }) => window.dsaInputs.push(detail));
"""
_STATE = "() => [performance.now(), window.dsaFrames, Number(document.getElementById('tick').textContent.slice(5))]"
_LATE = "() => parseInt(document.querySelector('.misses').textContent || '0')"
_HELD_S = (0.03, 0.25)  # how long between two inputs


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. `arguments` without the program's name."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.bench_viewer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--world", default=None, help="package folder, archive or bundled name")
    parser.add_argument("--seconds", type=float, default=20.0, help="to count frames (default: %(default)g)")
    parser.add_argument("--inputs", type=int, default=200, help="to time (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=None, help="threads per graph (default: one per core)")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the JSON document there as well")
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    if (reason := missing()) is not None:
        parser.error(reason)
    with load_world(options.world) as world:
        spec = world.spec
    figures = measure(spec, options)
    print(text(figures))
    line = json_line("viewer", given, spec, **figures)
    if options.json:
        options.json.write_text(line + "\n")
    print(line)
    return 0


def measure(spec: WorldSpec, options: argparse.Namespace) -> dict[str, Any]:
    """All figures, as plain JSON values."""
    arguments = [] if options.world is None else [options.world]
    arguments += [] if options.threads is None else ["--threads", options.threads]
    with play(*arguments) as address, chromium() as browser:
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(PATIENCE_MS)
        page.add_init_script(_LISTEN)
        page.goto(address)
        page.wait_for_selector("body[data-playing=true]")
        page.wait_for_function("() => window.dsaFrames > 50")  # warm
        tools = page.context.new_cdp_session(page)
        tools.send("Performance.enable")
        rate = _rate(page, tools, options.seconds)
        latencies = _inputs(page, options.inputs)
    return {
        "native_fps": 1000 / spec.frame.period_ms,
        **rate,
        "input_to_picture_ms": distribution(latencies),
        "inputs": len(latencies),
    }


def _rate(page: Page, tools: CDPSession, seconds: float) -> dict[str, Any]:
    before_ms, before, first = page.evaluate(_STATE)
    busy_s = _busy_s(tools)
    page.wait_for_timeout(1000 * seconds)
    after_ms, after, last = page.evaluate(_STATE)
    frames, passed_s = after - before, (after_ms - before_ms) / 1000
    busy_ms = {name: 1000 * (value - busy_s[name]) / max(frames, 1) for name, value in _busy_s(tools).items()}
    return {
        "fps": frames / passed_s,
        "seconds": passed_s,
        "ticks_not_drawn": last - first - frames,
        "late_of_newest_240": page.evaluate(_LATE),
        "page_ms_per_frame": busy_ms,
    }


def _busy_s(tools: CDPSession) -> dict[str, float]:
    """What the page's main thread has spent: in all, and on its scripts."""
    metrics = {metric["name"]: metric["value"] for metric in tools.send("Performance.getMetrics")["metrics"]}
    return {"all": metrics["TaskDuration"], "scripts": metrics["ScriptDuration"]}


def _inputs(page: Page, count: int) -> list[float]:
    """Milliseconds per input. Of two inputs between two ticks only the newer one is seen, and timed."""
    page.evaluate("() => { window.dsaInputs.length = 0; }")
    rng = random.Random(0)
    while True:
        for act in (page.keyboard.down, page.keyboard.up):
            act("Space")
            page.wait_for_timeout(1000 * rng.uniform(*_HELD_S))
        latencies: list[float] = page.evaluate("() => window.dsaInputs")
        if len(latencies) >= count:
            return latencies[:count]


def text(figures: dict[str, Any]) -> str:
    """The figures for reading."""
    spread, busy = figures["input_to_picture_ms"], figures["page_ms_per_frame"]
    rows = [
        ("frames a second", f"{figures['fps']:.2f} of {figures['native_fps']:.2f}"),
        ("ticks not drawn", f"{figures['ticks_not_drawn']} in {figures['seconds']:.0f} s"),
        ("late ticks", f"{figures['late_of_newest_240']} of the newest 240"),
        ("input to picture", f"p50 {spread['p50']:.0f} ms, p99 {spread['p99']:.0f} ms, {figures['inputs']} inputs"),
        ("page's main thread", f"{busy['all']:.1f} ms a frame, {busy['scripts']:.1f} of them scripts"),
    ]
    return table(("", "measured"), rows)


if __name__ == "__main__":
    sys.exit(main())
