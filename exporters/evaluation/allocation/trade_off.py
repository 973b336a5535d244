"""The picture of the trade-off: quality over cost, one line per family of rules."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from exporters.evaluation.allocation.measure import (
    ALTERNATING,
    FIRST_FULL,
    FIXED,
    MOTION,
    ORACLE,
    PAPER,
    RANDOM,
    TESTED,
)
from exporters.evaluation.allocation.scoring import SCORES, TICK_RMS, title

_STYLES: Mapping[str, dict[str, Any]] = {
    FIXED: {"color": "black", "linestyle": "--", "marker": "s"},
    RANDOM: {"color": "tab:gray", "marker": "x"},
    ALTERNATING: {"color": "tab:brown", "linestyle": ":", "marker": "P"},
    MOTION: {"color": "tab:green", "marker": "^"},
    FIRST_FULL: {"color": "tab:purple", "linestyle": "-.", "marker": "v"},
    PAPER: {"color": "tab:red", "marker": "D", "linestyle": ""},
    ORACLE: {"color": "tab:orange", "marker": "*", "markersize": 8},
    TESTED: {"color": "tab:blue", "marker": "o", "linewidth": 2.4},
}
_LABELS = {TESTED: "confidence (ours)", PAPER: "paper, Algorithm 1", ORACLE: "oracle (looks ahead)"}
_PANELS = 4


def draw_trade_off(path: Path, result: Mapping[str, Any]) -> None:
    """Up to four scores of `comparison.compare`'s result, as paired differences from the full schedule.

    Moments differ from each other far more than rules do, so that the scores themselves would show nothing. The cost is
    in steps of a world without a head: where it was measured, the head's time is on the bill of those that ask it.
    """
    scores = panels(list(result["scores"]))
    rows = -(-len(scores) // 2)
    figure = Figure(figsize=(9.6, 3.9 * rows + 0.9), layout="constrained")
    grid = figure.subplots(rows, min(len(scores), 2), squeeze=False).ravel()
    for panel, score in zip(grid, scores, strict=False):
        _draw(panel, result, score)
    for panel in grid[len(scores) :]:
        panel.set_axis_off()
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    trainings, seeds = len(result["trainings"]), len(result["config"]["seeds"])
    cost = "cost per frame in denoising steps"
    if result["costs"] is not None:
        cost += f" without a head (a step with head and decision counts {result['costs']['head_ratio']:.3f})"
    figure.supxlabel(
        f"{cost}\n{result['cases']} moments, noise seeds: {seeds}, trainings: {trainings};"
        " bars: 95 % interval of the confidence's difference",
        fontsize=9,
    )
    figure.savefig(path, dpi=100)


def panels(scores: list[str]) -> list[str]:
    """The scores that are drawn, the most telling ones: closeness, pictures, state."""
    wanted = [TICK_RMS, "lpips_full", "lpips_real", *(score for score in scores if score not in SCORES), "flip_real"]
    found = [score for score in wanted if score in scores]
    return (found + [score for score in scores if score not in found])[:_PANELS]


def _draw(panel: Axes, result: Mapping[str, Any], score: str) -> None:
    ratio = 1.0 if result["costs"] is None else result["costs"]["head_ratio"]
    ends = {row["rule"]: row for row in result["rules"] if "step" in row["rule"]}
    for family, style in _STYLES.items():
        rows = [row for row in result["rules"] if family_of(row["rule"]) == family]
        factor = ratio if family in (TESTED, PAPER) else 1.0
        points = [(row["mean_steps"] * factor, row["above_full"][score]) for row in rows]
        if family not in (FIXED, FIRST_FULL, PAPER):
            # Thresholds that never or always go on: a fixed schedule, for which nobody asks a head.
            points += [(row["mean_steps"], row["above_full"][score]) for row in (ends["1 step"],)]
        if family not in (FIXED, PAPER):
            last = max(ends.values(), key=lambda row: float(row["mean_steps"]))
            points.append((last["mean_steps"], last["above_full"][score]))
        points.sort(key=lambda point: float(point[0]))
        means = [cell["mean"] for _, cell in points]
        bars = None  # of one line only: they would lie on top of each other
        if family == TESTED:
            cells = [cell for _, cell in points]
            bars = [[cell["mean"] - cell["low"] for cell in cells], [cell["high"] - cell["mean"] for cell in cells]]
        options: dict[str, Any] = {"markersize": 5, "linewidth": 1.2, "elinewidth": 0.8, "capsize": 2, **style}
        label = _LABELS.get(family, family)
        panel.errorbar([cost for cost, _ in points], means, bars, label=label, **options)
    panel.set_title(title(score), fontsize=10)
    panel.axhline(0.0, color="black", linewidth=0.6)
    panel.grid(alpha=0.3)
    panel.set_ylabel("above the full schedule, paired", fontsize=9)


def family_of(rule: str) -> str:
    """Of a rule's name; heads that were not kept are families of their own."""
    return FIXED if rule.split(" ")[-1] in ("step", "steps") else rule.split(" @ ")[0]
