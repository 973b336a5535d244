"""Comparison: the rule under test against every control at equal cost, over all trainings that were measured.

Values are paired by case and pooled over trainings (`interval.py`). A difference counts only if its interval leaves
out zero and every training has it on the same side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from exporters.evaluation.allocation.costs import StepCosts
from exporters.evaluation.allocation.measure import (
    ALTERNATING,
    CONTROLS,
    FIRST_FULL,
    FIXED,
    ORACLE,
    PAPER,
    RANDOM,
    RANDOM_AS_PAPER,
    TESTED,
    AllocationConfig,
    Measured,
    rule,
)
from exporters.evaluation.allocation.ranking import rank_heads
from exporters.evaluation.allocation.scoring import SCORES, TO_REAL, benefit_sign
from exporters.evaluation.fidelity import step_name
from exporters.evaluation.interval import pooled_interval, pooled_ratio

MARGIN = 0.05
"""As good as the full schedule: worse by less than this share of the full schedule's own score, at 95 %."""
STEPS, TIME = "steps", "time"
_CONTROLS_IN_TIME = tuple(name for name in CONTROLS if name != ORACLE)


@dataclass(frozen=True)
class CostCurve:
    """A family of rules of one training. cost: float64[P], rising, mean steps; values: float64[P, B]."""

    cost: np.ndarray
    values: np.ndarray

    def at(self, cost: float) -> np.ndarray:
        """Expected score float64[B] of a mix of the two neighbours that costs this much, drawn per rollout.

        Beyond its ends the curve goes on as it ended.
        """
        right = int(np.clip(np.searchsorted(self.cost, cost), 1, len(self.cost) - 1))
        low, high = self.cost[right - 1], self.cost[right]
        part = float(np.clip((cost - low) / (high - low), 0.0, 1.0))
        mixed: np.ndarray = (1.0 - part) * self.values[right - 1] + part * self.values[right]
        return mixed


def compare(
    config: AllocationConfig, schedule: int, trainings: Sequence[Measured], costs: StepCosts | None
) -> dict[str, Any]:
    """A JSON-ready result of S trainings on the same cases; `schedule` is K."""
    table = _Table(schedule, config.points(schedule), config.head_points(schedule), trainings)
    heads = [name for name in trainings[0].heads.by_name if all(name in one.heads.by_name for one in trainings)]
    rules = [name for name in trainings[0].runs if all(name in one.runs for one in trainings)]
    return {
        "config": asdict(config),
        "cases": len(table.score(step_name(schedule), table.scores[0])[0]),
        "schedule": schedule,
        "trainings": [{"seed": one.seed, "kept": one.heads.kept} for one in trainings],
        "scores": table.scores,
        "rules": [_rule_row(table, name) for name in rules],
        "differences": list(_differences(table, costs)),
        "paper": list(_paper(table)),
        "gain": [_gain(table, TESTED, point, score) for point in table.points for score in table.scores],
        "heads": {
            "ranking": rank_heads([(one.heads, one.ranking) for one in trainings], heads),
            "gain": [
                {"head": name, **_gain(table, name, point, score)}
                for name in heads
                for point in table.head_points
                for score in table.scores
            ],
        },
        "same_quality": {"margin": MARGIN, "rows": list(_same_quality(table))},
        "costs": None if costs is None else costs.to_json(),
    }


class _Table:
    """All trainings' scores, as float64[S, B] per rule and score."""

    def __init__(
        self,
        schedule: int,
        points: tuple[float, ...],
        head_points: tuple[float, ...],
        trainings: Sequence[Measured],
    ) -> None:
        self.schedule, self.points, self.head_points, self.trainings = schedule, points, head_points, trainings
        self.scores = list(trainings[0].runs[step_name(schedule)].scores)
        self._cases: dict[tuple[str, str], np.ndarray] = {}

    def score(self, name: str, score: str) -> np.ndarray:
        """float64[S, B]."""
        if (name, score) not in self._cases:
            self._cases[name, score] = np.stack([one.runs[name].cases(score) for one in self.trainings])
        return self._cases[name, score]

    def steps(self, name: str) -> np.ndarray:
        """float64[S]: the mean steps of a rule in each training."""
        return np.asarray([one.runs[name].mean_steps for one in self.trainings])

    def rules(self, family: str) -> list[str]:
        """The runs of the rule under test or of a control, its ends (one step, all steps) included."""
        one, full = step_name(1), step_name(self.schedule)
        if family == FIXED:
            return [step_name(steps) for steps in range(1, self.schedule + 1)]
        if family == FIRST_FULL:
            return [*(rule(FIRST_FULL, steps) for steps in range(1, self.schedule)), full]
        return [one, *(rule(family, point) for point in self.points), full]

    def at(self, family: str, score: str, cost: np.ndarray) -> np.ndarray:
        """float64[S, B] of a family at a cost float64[S] in mean steps."""
        return np.stack([self._curve(family, score, index).at(float(cost[index])) for index in range(len(cost))])

    def _curve(self, family: str, score: str, training: int) -> CostCurve:
        names = self.rules(family)
        cost = np.asarray([self.steps(name)[training] for name in names])
        values = np.stack([self.score(name, score)[training] for name in names])
        cost, first = np.unique(cost, return_index=True)  # two thresholds may have come out as one
        return CostCurve(cost, values[first])


def _rule_row(table: _Table, name: str) -> dict[str, Any]:
    """Means of one rule, and its differences from the full schedule."""
    full = step_name(table.schedule)
    steps = [np.stack(one.runs[name].steps) for one in table.trainings]
    return {
        "rule": name,
        "mean_steps": float(table.steps(name).mean()),
        "step_shares": [float(np.mean([np.mean(s == k) for s in steps])) for k in range(1, table.schedule + 1)],
        "scores": {score: asdict(pooled_interval(table.score(name, score))) for score in table.scores},
        "above_full": {
            score: asdict(pooled_interval(table.score(name, score) - table.score(full, score)))
            for score in table.scores
        },
    }


def _differences(table: _Table, costs: StepCosts | None) -> Iterator[dict[str, Any]]:
    """The rule under test minus every control, at equal steps and, with `costs`, at equal time."""
    for point in table.points:
        name = rule(TESTED, point)
        spent = table.steps(name)
        for score in table.scores:
            tested = table.score(name, score)
            controls = {control: table.score(rule(control, point), score) for control in CONTROLS}
            controls |= {family: table.at(family, score, spent) for family in (FIXED, FIRST_FULL)}
            about = {"point": point, "mean_steps": float(spent.mean()), "score": score}
            for control, values in controls.items():
                yield {"equal": STEPS, **about, "against": control, **judge(tested - values, score)}
            if costs is not None:
                for control in (*_CONTROLS_IN_TIME, FIXED, FIRST_FULL):
                    values = table.at(control, score, spent * costs.head_ratio)
                    yield {"equal": TIME, **about, "against": control, **judge(tested - values, score)}


def _paper(table: _Table) -> Iterator[dict[str, Any]]:
    """The paper's rule against random, and the rule under test against the paper's, at the paper's cost."""
    spent = table.steps(PAPER)
    for score in table.scores:
        paper, about = table.score(PAPER, score), {"mean_steps": float(spent.mean()), "score": score}
        yield {"rule": PAPER, "against": RANDOM, **about, **judge(paper - table.score(RANDOM_AS_PAPER, score), score)}
        yield {"rule": TESTED, "against": PAPER, **about, **judge(table.at(TESTED, score, spent) - paper, score)}


def judge(difference: np.ndarray, score: str) -> dict[str, Any]:
    """Interval, the mean of each training, and the verdict on a difference float64[S, B] of a score."""
    pooled = pooled_interval(difference)
    with np.errstate(invalid="ignore"):
        means = [float(np.mean(one[~np.isnan(one)])) if not np.isnan(one).all() else float("nan") for one in difference]
    agreed = all(np.sign(mean) == pooled.sign for mean in means)
    better = pooled.sign * benefit_sign(score) if agreed else 0
    return {**asdict(pooled), "trainings": means, "verdict": ("unclear", "better", "worse")[better]}


def _gain(table: _Table, family: str, point: float, score: str) -> dict[str, Any]:
    """Share of the way from random to the oracle that a family of heads goes, at what it spends itself.

    Of the rule under test the controls spent exactly as much; those of another head are read off their curves.
    """
    if family == TESTED:
        names = [rule(TESTED, point)] * len(table.trainings)
    else:
        kept = [one.heads.kept == family and point in table.points for one in table.trainings]
        names = [rule(TESTED if own else family, point) for own in kept]
    runs = [one.runs[name] for one, name in zip(table.trainings, names, strict=True)]
    tested = np.stack([run.cases(score) for run in runs])
    spent = np.asarray([run.mean_steps for run in runs])
    if family == TESTED:
        blind, best = (table.score(rule(control, point), score) for control in (RANDOM, ORACLE))
    else:
        blind, best = (table.at(control, score, spent) for control in (RANDOM, ORACLE))
    parts = [pooled_ratio((blind - tested)[[s]], (blind - best)[[s]]).mean for s in range(len(tested))]
    return {
        "point": point,
        "mean_steps": float(spent.mean()),
        "score": score,
        **asdict(pooled_ratio(blind - tested, blind - best)),
        "trainings": parts,
        "above_random": judge(tested - blind, score),
    }


def _same_quality(table: _Table) -> Iterator[dict[str, Any]]:
    """Per family every run with fewer steps than all, and whether it is as good as the full schedule; cheapest first.

    `inside`: no interval says that it is worse. `same`: besides, every interval ends below the margin, so that it is
    not the lack of cases that hides a loss.
    """
    full = step_name(table.schedule)
    judged = [score for score in table.scores if score in TO_REAL or score not in SCORES]
    for family in (TESTED, RANDOM, ALTERNATING, FIXED, FIRST_FULL):
        names = [name for name in table.rules(family) if name != full]
        for name in sorted(names, key=lambda one: float(table.steps(one).mean())):
            cells = {}
            for score in judged:
                found = pooled_interval(table.score(name, score) - table.score(full, score))
                margin = MARGIN * float(np.nanmean(table.score(full, score)))
                cells[score] = {**asdict(found), "margin": margin, "same": found.low <= 0 and found.high < margin}
            steps = float(table.steps(name).mean())
            yield {
                "family": family,
                "rule": name,
                "mean_steps": steps,
                "share_of_steps": steps / table.schedule,
                "scores": cells,
                "inside": bool(cells) and all(cell["low"] <= 0 for cell in cells.values()),
                "same": bool(cells) and all(cell["same"] for cell in cells.values()),
            }


def cheapest(rows: Sequence[Mapping[str, Any]], family: str) -> Mapping[str, Any] | None:
    """The cheapest run of a family that is as good as the full schedule."""
    good = [row for row in rows if row["family"] == family and row["same"]]
    return min(good, key=lambda row: float(row["mean_steps"])) if good else None
