"""Checks of what callers pass in. Behind them the values are trusted."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from .errors import BudgetError, SessionError


def check_seed(seed: Any) -> int:
    """A seed: an integer in 0..2**64 - 1."""
    try:
        if isinstance(seed, (bool, np.bool_)):
            raise TypeError
        value = operator.index(seed)
    except TypeError:
        raise SessionError(f"seed: expected an integer, got {seed!r}") from None
    if not 0 <= value < 2**64:
        raise SessionError(f"seed: must lie in 0..2**64 - 1, got {value}")
    return value


def check_budget(budget_ms: Any) -> float:
    """A budget in milliseconds: a number above 0; infinity is allowed."""
    if isinstance(budget_ms, bool) or not isinstance(budget_ms, (int, float, np.integer, np.floating)):
        raise BudgetError(f"budget_ms: expected a number, got {budget_ms!r}")
    if not budget_ms > 0:  # written so that NaN is refused
        raise BudgetError(f"budget_ms: must be greater than 0, got {budget_ms}")
    return float(budget_ms)


def check_steps(steps: Any, schedule_steps: int) -> int:
    """A number of denoising steps within the schedule."""
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)):
        raise BudgetError(f"steps: expected an integer, got {steps!r}")
    if not 1 <= steps <= schedule_steps:
        raise BudgetError(f"steps: must lie in 1..{schedule_steps}, got {steps}")
    return int(steps)


def check_threads(threads: Any) -> int | None:
    """Threads per graph: a small positive integer, or None for the default."""
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 1024):
        raise BudgetError(f"threads: must be an integer in 1..1024, got {threads!r}")
    return threads


def check_count(name: str, value: Any, low: int, high: int, why: str = "") -> int:
    """An integer in low..high; `why` says in an error where the limit comes from."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise SessionError(f"{name}: expected an integer, got {value!r}")
    if not low <= value <= high:
        raise SessionError(f"{name}: must lie in {low}..{high}, got {value}" + (f"; {why}" if why else ""))
    return int(value)
