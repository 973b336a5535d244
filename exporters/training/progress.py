"""Progress: how much time a stage has left, and the whole run, for whoever waits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    from exporters.training.stage import Budget

_FORMAT = "{desc} {percentage:3.0f}% |{bar:20}| {remaining} left{postfix}"


@dataclass(frozen=True)
class RunProgress:
    """The stages of a run in order. A stage without a budget in minutes takes a time that nobody knows beforehand."""

    budgets: Mapping[str, Budget | None] = field(default_factory=dict)

    @staticmethod
    def current() -> RunProgress:
        """That of the run which is under way; an empty one if a stage is trained on its own."""
        return _current

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Make this the current one until the block ends."""
        global _current
        before, _current = _current, self
        try:
            yield
        finally:
            _current = before

    def place(self, stage: str) -> str:
        """Which of how many stages it is: " (2 of 6)"."""
        return f" ({list(self.budgets).index(stage) + 1} of {len(self.budgets)})" if stage in self.budgets else ""

    def left(self, stage: str, stage_left_s: float | None) -> str:
        """What is left of the run, in words, while `stage` has these many seconds left."""
        if stage not in self.budgets or stage_left_s is None:
            return ""
        later = list(self.budgets)[list(self.budgets).index(stage) + 1 :]
        known = {name: budget.minutes for name in later if (budget := self.budgets[name]) and budget.minutes}
        unknown = [name for name in later if name not in known]
        then = f", then {' and '.join(unknown)}" if unknown else ""
        return f"run {sum(known.values()) + stage_left_s / 60:.0f} min{then}"

    def bar(self, stage: str, budget: Budget, step: int, seconds: float, visible: bool) -> StageBar:
        """The bar of a stage that has come so far."""
        return StageBar(self, stage, budget, step, seconds, visible)


class StageBar:
    """A stage's bar: it advances by steps, or by the seconds of a budget in minutes."""

    def __init__(self, run: RunProgress, stage: str, budget: Budget, step: int, seconds: float, visible: bool) -> None:
        self._run, self._stage, self._budget = run, stage, budget
        self._first = (step, seconds)
        total = budget.steps if budget.minutes is None else 60.0 * budget.minutes
        done = min(step if budget.minutes is None else seconds, total or 0)
        self._bar = tqdm(
            desc=stage, initial=done, total=total, mininterval=5.0, bar_format=_FORMAT, disable=not visible
        )

    def show(self, step: int, seconds: float) -> None:
        """The stage has taken `step` steps in `seconds`."""
        self._bar.set_postfix_str(self._words(step, seconds), refresh=False)
        done = step if self._budget.minutes is None else min(seconds, 60.0 * self._budget.minutes)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        self._bar.close()

    def _words(self, step: int, seconds: float) -> str:
        words = self._run.left(self._stage, self._left_s(step, seconds))
        return ", ".join([f"step {step}", *filter(None, [words])])

    def _left_s(self, step: int, seconds: float) -> float | None:
        """Seconds that the stage has left; None as long as the speed of its steps is not known."""
        if self._budget.minutes is not None:
            return max(0.0, 60.0 * self._budget.minutes - seconds)
        first_step, first_seconds = self._first
        if step == first_step:
            return None
        return max(0, (self._budget.steps or 0) - step) * (seconds - first_seconds) / (step - first_step)


_current = RunProgress()
