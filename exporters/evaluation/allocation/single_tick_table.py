"""The tables of `single_tick.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from exporters.evaluation.allocation.heads import KEPT
from exporters.evaluation.allocation.scoring import TICK_RMS, title
from exporters.evaluation.allocation.table import SHARED


def render_single_tick(result: Mapping[str, Any]) -> str:
    """Markdown for a card: the kept head against the controls, what a step is worth, all heads' rules and ranks."""
    scores = result["scores"]
    lines = [
        "### One frame after a real past",
        "",
        f"{result['cases']} held-out moments, {len(result['config']['seeds'])} noise seeds,"
        f" {result['trainings']} training seed(s); 95 % intervals over moments"
        f"{f' and trainings. {SHARED}' if result['trainings'] > 1 else ' of this one training.'}",
        "",
        "What the fixed schedules make, and what each added step changes:",
        "",
        "| steps | " + " | ".join(title(s) for s in scores) + " |",
        "|--:" + "|:--" * len(scores) + "|",
    ]
    lines += [f"| {r['steps']} | " + " | ".join(f"{r[s]['mean']:.4g}" for s in scores) + " |" for r in result["fixed"]]
    lines += [f"| step {r['step']} | " + " | ".join(_signed(r[s]) for s in scores) + " |" for r in result["worth"]]
    lines += [
        "",
        f"Each training keeps a head of its own: {', '.join(result['kept'])} (in the order of the trainings).",
        "",
        "The kept head's rule less each control at the same number of steps (PSNR: more is better; else less), and the"
        " share it reaches of what an oracle that knows the distance to the full schedule gains over random:",
        "",
        "| mean steps | score | less random | less fixed | less motion | less full | share of the oracle's gain |",
        "|--:|:--|:--|:--|:--|:--|:--|",
    ]
    for point in result["points"]:
        if point["head"] != KEPT:
            continue
        for score in scores:
            entry = point["scores"][score]
            cells = [_signed(entry[c]) + f" {entry[c]['verdict']}" for c in ("random", "fixed", "motion")]
            lines.append(
                f"| {np.mean(point['mean_steps']):.2f} | {title(score)} | "
                + " | ".join(cells)
                + f" | {_signed(entry['above_full'])} | {_share(entry['share_of_oracle'])} |"
            )
    lines += [
        "",
        f"Every head's own rule against the same shares of steps handed out blindly, by {title(TICK_RMS)}"
        f" ({KEPT}: of each training the one that it kept):",
        "",
        "| head | mean steps | less random | share of the oracle's gain |",
        "|:--|--:|:--|:--|",
    ]
    for point in result["points"]:
        entry = point["scores"][TICK_RMS]
        above = f"{_signed(entry['random'])} {entry['random']['verdict']}"
        mean = f"{np.mean(point['mean_steps']):.2f}"
        lines.append(f"| {point['head']} | {mean} | {above} | {_share(entry['share_of_oracle'])} |")
    lines += ["", "Rank correlation (Spearman) of each head's doubt with what the remaining steps improve:", ""]
    ranked = [s for s in scores if all(s in row for row in result["ranks"])]
    lines.append("| head | after step | " + " | ".join(title(s) for s in ranked) + " |")
    lines.append("|:--|--:" + "|:--" * len(ranked) + "|")
    lines += [
        f"| {r['head']} | {r['step']} | "
        + " | ".join(f"{r[s]['mean']:.3f} ({r[s]['low']:.2f}..{r[s]['high']:.2f})" for s in ranked)
        + " |"
        for r in result["ranks"]
    ]
    return "\n".join(lines) + "\n"


def _signed(value: Mapping[str, float]) -> str:
    return f"{value['mean']:+.4g} ({value['low']:+.3g}..{value['high']:+.3g})"


def _share(value: Mapping[str, float]) -> str:
    if np.isnan(value["mean"]):
        return "nothing to gain"
    return f"{100 * value['mean']:.0f} % ({100 * value['low']:.0f}..{100 * value['high']:.0f})"
