"""Allocation: are steps that go where the confidence is low worth more than as many steps spent otherwise?

Every rule plays the same contexts, actions and noise in its own closed loop: what it commits is what it sees next.
After each run of the rule under test (a threshold on the calibrated confidence) the controls spend the same number of
steps per tick: at random, by motion of the latent, and by an oracle (`policies.py`). Fixed schedules stand beside it,
interpolated to the same mean number of steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from .cases import Cases
from .fidelity import step_name
from .interval import interval, per_case
from .metrics import PictureDistance, psnr
from .playing import Played, Policy, play
from .policies import (
    ConfidencePolicy,
    MotionPolicy,
    OraclePolicy,
    PaperPolicy,
    RandomPolicy,
    distances_to_full,
    table_threshold,
)
from .trained import TrainedWorld

CONTROLS = ("random", "motion", "oracle")
FIXED = "fixed"
FIRST_FULL_THEN = (1, 2)
"""All steps for the first frame, then this many: `first full @ 1`, `first full @ 2`."""
SCORES = {
    "lpips_real": "LPIPS to the real frame",
    "psnr_real_db": "PSNR to the real frame (dB)",
    "tick_rms": "distance to the same tick's full schedule (grey levels)",
    "lpips_full": "LPIPS to a rollout of full schedules",
}
_RISING = ("psnr_real_db",)
_STYLES = {
    FIXED: "k--s",
    "confidence": "C0-o",
    "random": "C7-x",
    "motion": "C2-^",
    "oracle": "C1-*",
    "paper": "C3D",
    "first full": "C4-v",
}


@dataclass(frozen=True)
class AllocationConfig:
    """Sizes of the evaluation."""

    cases: int = 28
    seeds: tuple[int, ...] = (0, 1, 2)
    mean_steps: tuple[float, ...] = (1.5, 2.0, 2.5)
    """Operating points; the threshold of each comes from the calibration table, so the mean on the day differs."""
    horizons: tuple[int, ...] = (1, 4, 8, 12, 16)
    """Where frames are compared; the steps are counted over the whole rollout."""


@dataclass
class Run:
    """One rule's rollouts: per score one float64[B, horizons] per seed, and steps int64[B, N] per seed."""

    scores: dict[str, list[np.ndarray]] = field(default_factory=dict)
    steps: list[np.ndarray] = field(default_factory=list)

    def score(self, name: str) -> np.ndarray:
        """float64[B, seeds, horizons]."""
        return np.stack(self.scores[name], axis=1)

    @property
    def mean_steps(self) -> float:
        return float(np.mean(self.steps))


class _Bench:
    """Plays rules and keeps their scores. The first rule of a seed is its reference: the full schedule."""

    def __init__(
        self,
        config: AllocationConfig,
        trained: TrainedWorld,
        cases: Cases,
        lpips: PictureDistance | None,
        on_tick: Callable[[], object],
    ) -> None:
        self.runs: dict[str, Run] = {}
        self._trained, self._cases, self._lpips, self._on_tick = trained, cases, lpips, on_tick
        self._columns = [horizon - 1 for horizon in config.horizons]
        self._references: dict[int, np.ndarray] = {}

    def run(self, name: str, policy: Policy, seed: int) -> Played:
        played = play(self._trained, self._cases, seed, policy, on_tick=self._on_tick)
        run = self.runs.setdefault(name, Run())
        for score, values in self._scores(played, seed).items():
            run.scores.setdefault(score, []).append(values)
        run.steps.append(played.steps.numpy())
        return played

    def _scores(self, played: Played, seed: int) -> dict[str, np.ndarray]:
        """Per score float64[B, horizons]."""
        chosen, full = played.latents[:, self._columns], played.full[:, self._columns]
        shown, real = self._trained.decode(chosen), self._cases.future[:, self._columns]
        reference = self._references.setdefault(seed, shown)
        scores = {"psnr_real_db": _pairwise(psnr, real, shown)}
        if self._lpips is not None:
            scores["lpips_real"] = _pairwise(self._lpips.distance, real, shown)
            scores["lpips_full"] = _pairwise(self._lpips.distance, reference, shown)
        pairs = zip(chosen.unbind(1), full.unbind(1), strict=True)
        rms = [distances_to_full(self._trained, pair)[:, 0] for pair in pairs]
        scores["tick_rms"] = torch.stack(rms, dim=1).double().numpy()
        return {name: scores[name] for name in SCORES if name in scores}


def run_allocation(
    config: AllocationConfig,
    trained: TrainedWorld,
    calibration: Mapping[str, Any],
    cases: Cases,
    lpips: PictureDistance | None,
    picture: Path | None = None,
) -> dict[str, Any]:
    """Measure; returns a JSON-ready result for `render_allocation`. Draws the trade-off to `picture`."""
    thresholds = sorted({round(table_threshold(calibration, mean), 4) for mean in config.mean_steps})
    rollouts = len(config.seeds) * (trained.steps + 1 + len(FIRST_FULL_THEN) + len(thresholds) * (1 + len(CONTROLS)))
    with tqdm(total=rollouts * cases.horizon, desc="allocation", unit="tick", disable=None) as bar:
        bench = _Bench(config, trained, cases, lpips, bar.update)
        for seed in config.seeds:
            for steps in range(trained.steps, 0, -1):
                bench.run(step_name(steps), _always(steps), seed)
            bench.run("paper", PaperPolicy(), seed)
            for steps in FIRST_FULL_THEN:
                bench.run(f"first full @ {steps}", _first_full(trained.steps, steps), seed)
            for threshold in thresholds:
                rule = ConfidencePolicy(threshold, calibration["within_delta"])
                tested = bench.run(_rule("confidence", threshold), rule, seed)
                bench.run(_rule("random", threshold), RandomPolicy(tested.steps, seed), seed)
                bench.run(_rule("motion", threshold), MotionPolicy(tested.steps), seed)
                bench.run(_rule("oracle", threshold), OraclePolicy(tested.steps, trained), seed)
    result = {"cases": len(cases), **summarise(config, trained.steps, thresholds, bench.runs)}
    if picture is not None:
        draw_trade_off(picture, result)
    return result


def summarise(
    config: AllocationConfig, schedule: int, thresholds: Sequence[float], runs: Mapping[str, Run]
) -> dict[str, Any]:
    """Means of every rule, and the paired differences of the confidence to every control at equal mean steps."""
    full = runs[step_name(schedule)]
    scores = list(full.scores)
    rules = [
        {
            "rule": name,
            "mean_steps": run.mean_steps,
            "step_shares": [float(np.mean(np.stack(run.steps) == k)) for k in range(1, schedule + 1)],
            **{score: asdict(interval(run.score(score))) for score in scores},
            "above_full": {score: asdict(interval(run.score(score) - full.score(score))) for score in scores},
        }
        for name, run in runs.items()
    ]
    fixed = [runs[step_name(steps)] for steps in range(1, schedule + 1)]
    differences = []
    for threshold, score in itertools.product(thresholds, scores):
        tested = runs[_rule("confidence", threshold)]
        others = {name: runs[_rule(name, threshold)].score(score) for name in CONTROLS}
        others[FIXED] = between_fixed([per_case(run.score(score)) for run in fixed], tested.mean_steps)
        for name, values in others.items():
            gap = interval(per_case(tested.score(score)) - per_case(values))
            better = gap.sign if score in _RISING else -gap.sign
            row = {"threshold": threshold, "mean_steps": tested.mean_steps, "score": score, "against": name}
            differences.append({**row, **asdict(gap), "verdict": ("unclear", "better", "worse")[better]})
    return {"config": asdict(config), "scores": scores, "rules": rules, "differences": differences}


def between_fixed(values: Sequence[np.ndarray], mean_steps: float) -> np.ndarray:
    """Expected score float64[B] of a mix of the two fixed schedules around `mean_steps` that costs the same.

    values: float64[B] for 1, 2 ... K steps. The mix is drawn per rollout, so its expectation is linear.
    """
    low = min(int(mean_steps), len(values) - 1)
    part = mean_steps - low
    mixed: np.ndarray = (1.0 - part) * values[low - 1] + part * values[low]
    return mixed


def render_allocation(result: Mapping[str, Any]) -> str:
    """Markdown for a card."""
    config, scores = result["config"], result["scores"]
    lines = [
        "### Adaptive against fixed at equal mean steps",
        "",
        f"{result['cases']} held-out moments, {len(config['seeds'])} noise seeds, the same noise for all rules,"
        f" closed loop; frames at horizons {', '.join(map(str, config['horizons']))}."
        " Mean ± standard error over the moments.",
        "",
        "| rule | mean steps | " + " | ".join(SCORES[s] for s in scores) + " |",
        "|:--|--:" + "|--:" * len(scores) + "|",
    ]
    for row in sorted(result["rules"], key=lambda r: (r["mean_steps"], r["rule"])):
        cells = [f"{row[s]['mean']:.{_digits(s)}f} ± {row[s]['standard_error']:.{_digits(s)}f}" for s in scores]
        lines.append(f"| {row['rule']} | {row['mean_steps']:.2f} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "Confidence minus control, paired by moment; 95 % bootstrap interval. `fixed` is the mix of the two nearest"
        " fixed schedules that costs the same. The oracle looks ahead and cannot run at play: it is the bound.",
        "",
        "| threshold | mean steps | score | against | difference | interval | confidence is |",
        "|--:|--:|:--|:--|--:|:--|:--|",
    ]
    for row in result["differences"]:
        lines.append(
            f"| {row['threshold']:.4f} | {row['mean_steps']:.2f} | {SCORES[row['score']]} | {row['against']} |"
            f" {row['mean']:+.4f} | {row['low']:+.4f} .. {row['high']:+.4f} | {row['verdict']} |"
        )
    return "\n".join(lines) + "\n"


def draw_trade_off(path: Path, result: Mapping[str, Any]) -> None:
    """One panel per score over the mean number of steps, one line per family of rules.

    Drawn as paired differences from the full schedule: moments differ from each other far more than rules do.
    """
    figure = Figure(figsize=(5.2 * len(result["scores"]), 4.4), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(result["scores"])))
    for panel, score in zip(panels, result["scores"], strict=True):
        for family, style in _STYLES.items():
            rows = sorted((r for r in result["rules"] if _family(r["rule"]) == family), key=lambda r: r["mean_steps"])
            panel.errorbar(
                [r["mean_steps"] for r in rows],
                [r["above_full"][score]["mean"] for r in rows],
                [r["above_full"][score]["standard_error"] for r in rows],
                fmt=style,
                capsize=2,
                label=family,
            )
        panel.set(title=SCORES[score], xlabel="mean denoising steps per frame")
        panel.axhline(0.0, color="k", linewidth=0.6)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("difference from the full schedule, paired")
    panels[0].legend()
    figure.savefig(path, dpi=110)


def _pairwise(
    distance: Callable[[np.ndarray, np.ndarray], np.ndarray], first: np.ndarray, second: np.ndarray
) -> np.ndarray:
    """Of uint8[B, n, H, W, 3] each, as float64[B, n]."""
    picture = first.shape[2:]
    return distance(first.reshape(-1, *picture), second.reshape(-1, *picture)).reshape(first.shape[:2])


def _always(steps: int) -> Policy:
    return lambda view: torch.full((len(view.previous),), steps)


def _first_full(schedule: int, steps: int) -> Policy:
    return lambda view: torch.full((len(view.previous),), steps if view.tick else schedule)


def _rule(name: str, threshold: float) -> str:
    return f"{name} @ {threshold:.4f}"


def _family(rule: str) -> str:
    return FIXED if "step" in rule else rule.split(" @ ")[0]


def _digits(score: str) -> int:
    return 2 if score == "psnr_real_db" else 3
