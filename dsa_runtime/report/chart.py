"""Chart: steps, confidence and latency of every tick, and at the side how they are distributed."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image

from ..atomic import whole_file
from .canvas import Canvas, Panel, ticks_of_axis
from .palette import ALARM, CONFIDENCE, LATENCY, MUTED, TEXT, TRACK, Colour, mix, step_colour
from .play import STAGES, Play

WIDTH, HEIGHT = 1600, 1000
_LEFT, _RIGHT = 92, 1180
_SIDE_LEFT, _SIDE_RIGHT = 1220, 1560
_STEPS, _CONFIDENCE, _LATENCY = (146, 312), (370, 606), (664, 930)
_STAGE_COLOURS: dict[str, Colour] = {
    "wait": (92, 100, 118), "denoise": (84, 158, 108), "decode": (190, 160, 92), "sdk": (150, 110, 170)
}  # fmt: skip
_STAGE_NAMES = {"wait": "wait for commit", "denoise": "denoise", "decode": "decode", "sdk": "SDK"}


def write_chart(play: Play, path: Path) -> None:
    """Write the chart as PNG, 1600 x 1000."""
    with whole_file(path) as partial:
        draw_chart(play).save(partial, "PNG")


def draw_chart(play: Play) -> Image.Image:
    """The chart, RGB."""
    canvas = Canvas(WIDTH, HEIGHT)
    _heading(canvas, play)
    _steps(canvas, play)
    _confidence(canvas, play)
    _latency(canvas, play)
    for tick in ticks_of_axis(0, len(play.ticks)):
        x = _LEFT + (_RIGHT - _LEFT) * tick / len(play.ticks)
        canvas.text(x, _LATENCY[1] + 24, f"{tick:g}", 15, MUTED, "ms")
    canvas.text(_RIGHT, _LATENCY[1] + 48, "tick", 15, MUTED, "rs")
    return canvas.image()


def _heading(canvas: Canvas, play: Play) -> None:
    steps, schedule, late = play.steps, play.spec.schedule.steps, int(play.late.sum())
    parts = [
        f"{len(play.ticks)} ticks",
        f"{steps.mean():.2f} of {schedule} steps on average",
        f"{len(play.ticks) / play.wall_s:.1f} ticks/s",
    ]
    if math.isfinite(play.budget_ms):
        parts.append(f"{late or 'none'} over the budget of {play.budget_ms:g} ms")
    canvas.text(_LEFT, 56, play.spec.name, 32, TEXT, "ls")
    canvas.text(_LEFT, 84, "   ·   ".join(parts), 17, MUTED, "ls")


def _steps(canvas: Canvas, play: Play) -> None:
    steps, schedule = play.steps, play.spec.schedule.steps
    panel = Panel(canvas, _LEFT, _RIGHT, *_STEPS, 0, schedule)
    panel.title("Denoising steps")
    panel.grid(range(1, schedule + 1))
    for index, taken in enumerate(steps.tolist()):
        panel.column(index, len(steps), 0, taken, step_colour(taken, schedule))
    side = Panel(canvas, _SIDE_LEFT, _SIDE_RIGHT, *_STEPS, 0, schedule)
    side.title("share of ticks")
    shares = [float((steps == k).mean()) for k in range(1, schedule + 1)]
    for k, share in enumerate(shares, 1):
        side.row(k - 0.85, k - 0.15, share / max(shares) * 0.8, step_colour(k, schedule))
        side.label(share / max(shares) * 0.8, k - 0.5, f"{share:.0%}")


def _confidence(canvas: Canvas, play: Play) -> None:
    confidence, threshold = play.confidence, play.threshold
    panel = Panel(canvas, _LEFT, _RIGHT, *_CONFIDENCE, 0, 1)
    panel.title("Confidence after the last step")
    panel.grid((0, 0.25, 0.5, 0.75, 1))
    if not np.isnan(threshold).all():
        panel.curve(threshold, TEXT, 1.5, dashed=True)
        canvas.legend(_RIGHT, _CONFIDENCE[0] - 14, [("threshold", TEXT), ("confidence", CONFIDENCE)])
    panel.curve(confidence, mix(CONFIDENCE, (16, 18, 23), 0.55), 1.0)
    panel.dots(confidence, CONFIDENCE)
    _side_histogram(canvas, _CONFIDENCE, confidence, 0, 1, CONFIDENCE)


def _latency(canvas: Canvas, play: Play) -> None:
    total, late = play.stage_ms("total"), play.late
    p50, p99 = np.quantile(total, [0.5, 0.99], method="inverted_cdf").tolist()
    has_budget = math.isfinite(play.budget_ms)
    # One pause of the machine must not press all other ticks flat: the scale may cut the slowest percent.
    top = 1.15 * max(p99, play.budget_ms if has_budget else 0.0)
    panel = Panel(canvas, _LEFT, _RIGHT, *_LATENCY, 0, top)
    panel.title("Latency, ms")
    panel.grid(ticks_of_axis(0, top))
    stages = np.cumsum([play.stage_ms(stage) for stage in STAGES], axis=0)
    lower = np.zeros_like(total)
    for stage, upper in zip(STAGES, stages, strict=True):
        for index in range(len(total)):
            panel.column(index, len(total), lower[index], upper[index], _STAGE_COLOURS[stage])
        lower = upper
    for index in np.flatnonzero(late).tolist():
        start = min(play.budget_ms, total[index], top * 0.98)
        panel.column(index, len(total), start, max(total[index], start + top * 0.02), ALARM)
    legend = [(_STAGE_NAMES[stage], _STAGE_COLOURS[stage]) for stage in STAGES]
    if has_budget:
        panel.level(play.budget_ms, TEXT)
        legend.append((f"late: {int(late.sum())}", ALARM))
    canvas.legend(_RIGHT, _LATENCY[0] - 14, legend)
    side = _side_histogram(canvas, _LATENCY, total, 0, top, LATENCY)
    if has_budget:
        side.level(play.budget_ms, TEXT)
    label = f"p50 {p50:.1f} ms    p99 {p99:.1f} ms    max {total.max():.1f} ms"
    canvas.text(_SIDE_LEFT, _LATENCY[1] + 24, label, 15, MUTED, "ls")


def _side_histogram(
    canvas: Canvas, rows: tuple[int, int], values: np.ndarray, low: float, high: float, colour: Colour
) -> Panel:
    """How often each value occurs, on the same vertical scale as the panel beside it."""
    side = Panel(canvas, _SIDE_LEFT, _SIDE_RIGHT, *rows, low, high)
    counts, edges = np.histogram(np.clip(values, low, high), bins=40, range=(low, high))
    for count, bottom, top in zip(counts.tolist(), edges.tolist(), edges[1:].tolist(), strict=False):
        if count:
            inset = (top - bottom) * 0.12
            side.row(bottom + inset, top - inset, count / counts.max() * 0.95, mix(colour, TRACK, 0.2))
    return side
