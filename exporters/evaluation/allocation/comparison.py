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
    config: AllocationConfig,
    schedule: int,
    trainings: Sequence[Measured],
    costs: StepCosts | None,
    units: np.ndarray | None = None,
) -> dict[str, Any]:
    """A JSON-ready result of S trainings on the same cases; `schedule` is K. units: int64[B], `Cases.units`."""
    table = _Table(schedule, config.points(schedule), config.control_points(schedule), trainings, units)
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
        "gain": [_gain(table, point, score) for point in table.control_points for score in table.scores],
        "heads": {"ranking": rank_heads([(one.heads, one.ranking) for one in trainings], heads, units)},
        "same_quality": {"margin": MARGIN, "rows": list(_same_quality(table))},
        "costs": None if costs is None else costs.to_json(),
    }


class _Table:
    """All trainings' scores, as float64[S, B] per rule and score."""

    def __init__(
        self,
        schedule: int,
        points: tuple[float, ...],
        control_points: tuple[float, ...],
        trainings: Sequence[Measured],
        units: np.ndarray | None,
    ) -> None:
        self.units = units
        self.schedule, self.points, self.control_points, self.trainings = schedule, points, control_points, trainings
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
        points = self.points if family in (TESTED, RANDOM) else self.control_points
        return [one, *(rule(family, point) for point in points), full]

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
        "scores": {score: asdict(pooled_interval(table.score(name, score), table.units)) for score in table.scores},
        "above_full": {
            score: asdict(pooled_interval(table.score(name, score) - table.score(full, score), table.units))
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
            played = CONTROLS if point in table.control_points else (RANDOM,)
            controls = {control: table.score(rule(control, point), score) for control in played}
            controls |= {family: table.at(family, score, spent) for family in (FIXED, FIRST_FULL)}
            about = {"point": point, "mean_steps": float(spent.mean()), "score": score}
            for control, values in controls.items():
                yield {"equal": STEPS, **about, "against": control, **judge(tested - values, score, table.units)}
            if costs is not None:
                for control in (*(name for name in played if name != ORACLE), FIXED, FIRST_FULL):
                    values = table.at(control, score, spent * costs.head_ratio)
                    yield {"equal": TIME, **about, "against": control, **judge(tested - values, score, table.units)}


def _paper(table: _Table) -> Iterator[dict[str, Any]]:
    """The paper's rule against random, and the rule under test against the paper's, at the paper's cost."""
    spent = table.steps(PAPER)
    for score in table.scores:
        paper, about = table.score(PAPER, score), {"mean_steps": float(spent.mean()), "score": score}
        above, better = paper - table.score(RANDOM_AS_PAPER, score), table.at(TESTED, score, spent) - paper
        yield {"rule": PAPER, "against": RANDOM, **about, **judge(above, score, table.units)}
        yield {"rule": TESTED, "against": PAPER, **about, **judge(better, score, table.units)}


def judge(difference: np.ndarray, score: str, units: np.ndarray | None = None) -> dict[str, Any]:
    """Interval, the mean of each training, and the verdict on a difference float64[S, B] of a score."""
    pooled = pooled_interval(difference, units)
    with np.errstate(invalid="ignore"):
        means = [float(np.mean(one[~np.isnan(one)])) if not np.isnan(one).all() else float("nan") for one in difference]
    agreed = all(np.sign(mean) == pooled.sign for mean in means)
    better = pooled.sign * benefit_sign(score) if agreed else 0
    return {**asdict(pooled), "trainings": means, "verdict": ("unclear", "better", "worse")[better]}


def _gain(table: _Table, point: float, score: str) -> dict[str, Any]:
    """Share of the way from random to the oracle that the rule under test goes; all three spend the same.

    Of other heads nothing of the kind is said here: no control was played that spends as they would (`measure.py`).
    """
    tested, blind, best = (table.score(rule(family, point), score) for family in (TESTED, RANDOM, ORACLE))
    # Positive where better; of an oracle that is not, nobody can have a share.
    gained, most = benefit_sign(score) * (tested - blind), benefit_sign(score) * (best - blind)
    parts = [pooled_ratio(gained[[s]], most[[s]], table.units).mean for s in range(len(tested))]
    return {
        "point": point,
        "mean_steps": float(table.steps(rule(TESTED, point)).mean()),
        "score": score,
        **asdict(pooled_ratio(gained, most, table.units)),
        "trainings": parts,
        "above_random": judge(tested - blind, score, table.units),
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
                found = pooled_interval(table.score(name, score) - table.score(full, score), table.units)
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
