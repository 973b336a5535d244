"""The drift result as markdown for a card, and as curves over ticks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from exporters.evaluation.drift.checkpoints import FEWEST_SESSIONS
from exporters.evaluation.drift.statistics import STATISTICS

_TARGET_POINTS = 2.0  # the response to actions shall be within this of the first checkpoint's


def render_drift(result: Mapping[str, Any]) -> str:
    """Markdown for a card."""
    config, real = result["config"], result["real"]
    total = result["windows_per_session"] * result["sessions"]
    lines = [
        "### Free play",
        "",
        f"{result['sessions']} sessions of {result['ticks']:,} ticks through {result['engine']}, a blind random player,"
        f" {result['mean_steps']:.2f} steps a tick on average. Means over windows of {config['window']} ticks, beside"
        " the same windows of real recordings (grey levels of 255).",
        "",
        "| statistic | real 5-95 % | first window | last window | lowest | highest | windows outside |",
        "|:--|:--|--:|--:|--:|--:|--:|",
    ]
    for name in STATISTICS:
        found = result["extremes"][name]
        cells = [f"{found[key]:.1f}" for key in ("first", "last", "lowest", "highest")]
        lines.append(
            f"| {name.replace('_', ' ')} | {real[name]['p5']:.1f} - {real[name]['p95']:.1f} | "
            + " | ".join(cells)
            + f" | {result['abnormal_windows'][name]} of {total} |"
        )
    lost = [tick for tick in result["collapsed_at_tick"] if tick is not None]
    verdict = "No session collapsed"
    if lost:
        verdict = f"{len(lost)} of {result['sessions']} sessions collapsed, the first at tick {min(lost)}"
    lines += [
        "",
        f"{verdict}. A window is outside when a statistic leaves the real range by more than {config['margin']:.0%} of"
        f" its width or of its end; {config['patience']} such windows in a row are a collapse.",
    ]
    if result.get("response", {}).get("checkpoints"):
        lines += _response_lines(result["response"], config)
    if "state" in result:
        lines += _state_lines(result["state"])
    return "\n".join(lines) + "\n"


def draw_drift(path: Path, result: Mapping[str, Any]) -> None:
    """Curves over a logarithmic scale of ticks: every statistic with its real range, response and state."""
    response = result.get("response", {}).get("checkpoints", [])
    panels = [*STATISTICS, *(["response"] if response else []), *(["state"] if "state" in result else [])]
    rows = -(-len(panels) // 4)
    figure = Figure(figsize=(14, 2.8 * rows), layout="constrained")
    axes = figure.subplots(rows, 4, squeeze=False).ravel()
    ticks = result["window_ends"]
    for axis, name in zip(axes, panels, strict=False):
        axis.set_xscale("log")
        axis.set_xlabel("tick")
        axis.set_title(name.replace("_", " "), fontsize=10)
        if name in STATISTICS:
            real = result["real"][name]
            axis.axhspan(real["p5"], real["p95"], color="0.88")
            for session in result["windows"][name]:
                axis.plot(ticks, session, linewidth=0.9)
        elif name == "response":
            axis.set_title("response to actions", fontsize=10)
            at, middle = [row["tick"] for row in response], [row["all"]["share"] for row in response]
            low, high = ([row["all"][key] for row in response] for key in ("low", "high"))
            spread = [np.subtract(middle, low), np.subtract(high, middle)]
            axis.errorbar(at, middle, yerr=spread, marker="o", capsize=3)
            axis.set_ylim(0.0, 1.02)
        else:
            axis.set_title("things in the picture", fontsize=10)
            stretches = result["state"]["stretches"]
            axis.plot([row["until_tick"] for row in stretches], [row["all_present"] for row in stretches])
            axis.axhline(result["state"]["real"]["all_present"], color="0.6", linestyle="--")
            axis.set_ylim(0.0, 1.02)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    figure.suptitle("Free play, a line per session; grey: 5-95 % of real recordings", fontsize=10)
    figure.savefig(path, dpi=110)


def _response_lines(response: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    names = response["trials"]
    known = [row["difference"]["sessions"] for row in response["checkpoints"] if row["difference"] is not None]
    of_these = min(known, default=0) < FEWEST_SESSIONS
    title = "change, of these sessions" if of_these else "change"
    spread = (
        "of these sessions alone, after Newcombe"
        if of_these
        else "over sessions, each paired with itself, after Student"
    )
    lines = [
        "",
        f"Response to actions: in forks at up to {config['moments']} moments, {config['spacing']} ticks apart, before"
        f" each checkpoint, one action held for {response['hold']} ticks; share of forks that obey, as the probe of"
        " this world reads them (95 % Wilson interval; of all, with a moment as one case), and the change since the"
        f" first checkpoint in percentage points (95 % interval {spread}).",
        "",
        "| tick | moments | " + " | ".join(names) + f" | all | {title} |",
        "|--:|--:" + "|:--" * (len(names) + 1) + "|:--|",
    ]
    for row in response["checkpoints"]:
        cells = [_percent(row["trials"][name]) for name in names]
        change, since = "", row["difference"]
        if since is not None:
            change = f"{since['points']:+.1f} ({since['low']:+.1f} .. {since['high']:+.1f})"
        lines.append(
            f"| {row['tick']:,} | {row['moments']} | " + " | ".join([*cells, _percent(row["all"])]) + f" | {change} |"
        )
    last = response["checkpoints"][-1]["difference"]
    if last is not None:
        inside = "is" if abs(last["points"]) <= _TARGET_POINTS else "is not"
        sure = "all" if max(abs(last["low"]), abs(last["high"])) <= _TARGET_POINTS else "not all"
        lines += [
            "",
            f"At the last checkpoint the response {inside} within {_TARGET_POINTS:.0f} points of the first;"
            f" {sure} of the interval{' (of these sessions)' if of_these else ''} is.",
        ]
    return lines


def _state_lines(state: Mapping[str, Any]) -> list[str]:
    stretches, real = state["stretches"], state["real"]
    worst = min(stretches, key=lambda row: row["all_present"])
    columns = ["all_present", *state["movers"], *state["angles"]]
    titles = ["all there", *state["movers"], *(f"certainty of {name}" for name in state["angles"])]
    lines = [
        "",
        f"State read from the pictures: share of frames in which {', '.join(state['movers'])} are there, once and as"
        " they should look, and how certain the angles are (about 1 on real frames).",
        "",
        "| ticks | " + " | ".join(titles) + " |",
        "|:--" + "|--:" * len(columns) + "|",
    ]
    rows = {"real": real, "first": stretches[0], "worst": worst, "last": stretches[-1]}
    for name, row in rows.items():
        where = name if name == "real" else f"{name} stretch, to {row['until_tick']:,}"
        lines.append(f"| {where} | " + " | ".join(f"{row[column]:.3f}" for column in columns) + " |")
    return lines


def _percent(value: Mapping[str, float]) -> str:
    if not value["cases"]:
        return "no case"
    return f"{100 * value['share']:.1f} % ({100 * value['low']:.0f}-{100 * value['high']:.0f})"
