"""The tables and pictures of the demo, from ticks made by hand."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dsa_runtime import Tick, WorldSpec
from dsa_runtime.report.canvas import ticks_of_axis
from dsa_runtime.report.chart import HEIGHT, WIDTH, draw_chart, write_chart
from dsa_runtime.report.film import newest_picture, write_film
from dsa_runtime.report.gif import gif_durations_ms
from dsa_runtime.report.palette import ALARM, step_colour
from dsa_runtime.report.play import Play, distribution
from dsa_runtime.report.table import bar, table
from dsa_runtime.tick import LatencyMs

SCHEDULE = 4


@pytest.fixture(scope="module")
def spec(tiny_package: Path) -> WorldSpec:
    return WorldSpec.from_json((tiny_package / "world.json").read_text())


def make_tick(
    index: int, steps: int, *, budget_ms: float = 33.0, late: bool = False, threshold: float | None = 0.5
) -> Tick:
    denoise = tuple(5.0 for _ in range(steps))
    decode = 40.0 if late else 1.5
    total = 2.0 + sum(denoise) + decode + 0.5
    pixels = np.random.default_rng(index).integers(0, 256, (8, 8, 3), np.uint8)
    return Tick(
        pixels=pixels,
        tick=index,
        frame_tick=index,
        steps=steps,
        confidence=1.0 if steps == SCHEDULE else 0.4 + 0.1 * steps,
        threshold=threshold,
        stopped_by="ceiling" if steps == SCHEDULE else "confidence",
        budget_ms=budget_ms,
        credit_ms=0.0,
        slack_ms=budget_ms - total,
        status="late" if late else "ok",
        latency_ms=LatencyMs(wait=2.0, denoise=denoise, abandoned=0.0, decode=decode, sdk=0.5, total=total),
    )


def make_play(spec: WorldSpec, ticks: list[Tick], budget_ms: float = 33.0) -> Play:
    return Play(spec, 7, budget_ms, ("noop",) * len(ticks), tuple(ticks), 2.0, None)


def close_to(image: Image.Image, colour: tuple[int, int, int], tolerance: int = 12) -> int:
    """How many pixels have this colour."""
    return int((np.abs(np.asarray(image.convert("RGB")).astype(int) - colour).max(axis=-1) <= tolerance).sum())


def test_summary_counts_and_adds_up(spec: WorldSpec) -> None:
    ticks = [make_tick(i, steps, late=i == 3) for i, steps in enumerate([1, 1, 2, 4, 4, 4])]
    summary = make_play(spec, ticks).summary()
    assert summary["steps"] == {"mean": 16 / 6, "schedule": 4, "histogram": {"1": 2, "2": 1, "3": 0, "4": 3}}
    assert summary["late"] == {"ticks": 1, "worst_slack_ms": pytest.approx(33 - 62.5)}
    assert summary["ticks_per_s"] == 3.0
    assert summary["stopped_by"] == {"ceiling": 3, "confidence": 3}
    assert summary["latency_ms"]["denoise"]["max"] == 20.0
    assert summary["latency_ms"]["denoise_step"]["mean"] == 5.0
    assert summary["confidence"]["reached_threshold"] == 1.0
    stages = [summary["per_tick"][f"{stage}_ms"] for stage in ("wait", "denoise", "decode", "sdk")]
    np.testing.assert_allclose(np.sum(stages, axis=0), summary["per_tick"]["total_ms"])


def test_summary_without_a_budget_or_a_threshold(spec: WorldSpec) -> None:
    summary = make_play(spec, [make_tick(0, 2, budget_ms=math.inf, threshold=None)], math.inf).summary()
    assert summary["budget_ms"] is None
    assert summary["late"]["worst_slack_ms"] is None
    assert summary["confidence"]["reached_threshold"] is None


def test_quantiles_are_measured_values() -> None:
    found = distribution([1.0, 2.0, 10.0, 3.0])
    assert found == {"mean": 4.0, "p50": 2.0, "p99": 10.0, "max": 10.0}


def test_film_has_a_frame_per_tick_at_the_display_aspect_and_rate(spec: WorldSpec, tmp_path: Path) -> None:
    calls: list[None] = []
    ticks = [make_tick(i, 1 + i % 4) for i in range(9)]
    write_film(make_play(spec, ticks), tmp_path / "film.gif", lambda: calls.append(None))
    with Image.open(tmp_path / "film.gif") as film:
        assert film.format == "GIF"
        assert film.n_frames == len(calls) == 9  # type: ignore[attr-defined]
        assert film.info["loop"] == 0
        width, height = film.size
        assert width / 384 == pytest.approx(4 / 3)
        assert height > 384, "the strip lies under the picture"
        total = 0
        for index in range(9):
            film.seek(index)
            total += film.info["duration"]
        assert total == pytest.approx(9 * spec.frame.period_ms, abs=5)
    assert [path.name for path in tmp_path.iterdir()] == ["film.gif"], "no partial file is left"


def test_film_shows_the_pixels_of_its_tick(spec: WorldSpec, tmp_path: Path) -> None:
    # Few colours: GIF has 256, and what is tested here is the place and the moment.
    ticks = [dataclasses.replace(make_tick(i, 2), pixels=make_tick(i, 2).pixels // 128 * 200) for i in range(4)]
    write_film(make_play(spec, ticks), tmp_path / "film.gif")
    with Image.open(tmp_path / "film.gif") as film:
        for index, tick in enumerate(ticks):
            film.seek(index)
            picture = film.convert("RGB").crop((0, 0, 512, 384))
            blocks = np.asarray(picture)[24::48, 32::64]
            np.testing.assert_allclose(blocks, tick.pixels, atol=8)


def test_film_and_chart_leave_other_files_alone(spec: WorldSpec, tmp_path: Path) -> None:
    for name, write in (("film.gif", write_film), ("chart.png", write_chart)):
        (tmp_path / f"{name}.partial").write_text("somebody else's")
        write(make_play(spec, [make_tick(0, 2)]), tmp_path / name)
        assert (tmp_path / f"{name}.partial").read_text() == "somebody else's"


def test_what_a_film_shows_of_a_tick_is_all_that_stays_of_it() -> None:
    frames = np.arange(4 * 8 * 8 * 3, dtype=np.uint8).reshape(4, 8, 8, 3)
    kept = newest_picture(dataclasses.replace(make_tick(0, 2), pixels=frames[-1], frames=frames))
    np.testing.assert_array_equal(kept.frames, frames[-1:])
    assert np.shares_memory(kept.frames, kept.pixels) and not np.shares_memory(kept.frames, frames)


def test_film_shows_steps_and_lateness(spec: WorldSpec, tmp_path: Path) -> None:
    ticks = [make_tick(i, 1) for i in range(3)] + [make_tick(3, 4), make_tick(4, 2, late=True)]
    write_film(make_play(spec, ticks), tmp_path / "film.gif")
    with Image.open(tmp_path / "film.gif") as film:
        strips = []
        for index in range(5):
            film.seek(index)
            strips.append(film.convert("RGB").crop((0, 384, *film.size)))
    assert close_to(strips[3], step_colour(4, 4)) > 4 * close_to(strips[2], step_colour(4, 4))
    assert close_to(strips[4], ALARM) > close_to(strips[3], ALARM) + 50


@pytest.mark.parametrize("period_ms", [57.142857, 33.3333, 20.0, 100.0])
def test_film_durations_do_not_drift(period_ms: float) -> None:
    durations = gif_durations_ms(300, period_ms)
    assert all(duration % 10 == 0 and duration >= 20 for duration in durations)
    assert np.abs(np.cumsum(durations) - period_ms * np.arange(1, 301)).max() <= 5


def test_film_frames_are_never_shorter_than_browsers_show() -> None:
    assert gif_durations_ms(3, 4.0) == [20, 20, 20]


def test_chart_is_a_png_of_its_size_that_marks_late_ticks(spec: WorldSpec, tmp_path: Path) -> None:
    ticks = [make_tick(i, 1 + i % 4) for i in range(40)]
    write_chart(make_play(spec, ticks), tmp_path / "chart.png")
    late = draw_chart(make_play(spec, [*ticks[:-1], make_tick(39, 2, late=True)]))
    with Image.open(tmp_path / "chart.png") as chart:
        assert (chart.format, chart.mode, chart.size) == ("PNG", "RGB", (WIDTH, HEIGHT))
        for step in range(1, 5):
            assert close_to(chart, step_colour(step, 4), 2) > 100, f"no bar of {step} steps"
        assert close_to(late, ALARM) > close_to(chart, ALARM) + 20


@pytest.mark.parametrize("count", [1, 2, 5000])
@pytest.mark.parametrize(("budget_ms", "threshold"), [(33.0, 0.5), (math.inf, None)])
def test_chart_of_any_length(spec: WorldSpec, count: int, budget_ms: float, threshold: float | None) -> None:
    tick = make_tick(0, 3, budget_ms=budget_ms, threshold=threshold)
    chart = draw_chart(make_play(spec, [tick] * count, budget_ms))
    assert close_to(chart, step_colour(3, 4), 2) > 1000


@pytest.mark.parametrize("high", [0.3, 1.0, 7.0, 38.0, 300.0, 12345.0])
def test_axis_numbers_are_few_and_inside(high: float) -> None:
    values = ticks_of_axis(0.0, high)
    assert 3 <= len(values) <= 8
    assert values[0] == 0.0 and values[-1] <= high
    assert len(set(np.diff(values).round(9))) == 1


def test_table_aligns_numbers_right_and_text_left() -> None:
    text = table(("name", "ms"), [("a", 1.234), ("long name", 123.4), ("none", None)])
    assert text.splitlines() == [
        "name         ms",
        "─────────  ────",
        "a          1.23",
        "long name   123",
        "none",
    ]


def test_bars_grow_with_the_share() -> None:
    assert bar(0.0) == ""
    assert bar(1.0, 4) == bar(2.0, 4) == "████"
    assert bar(0.5, 4) == "██"
    assert bar(0.53125, 4) == "██▏"
