"""Waiting for what is to come about."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.stages import WAIT_S


def until(condition: Callable[[], bool], what: str) -> None:
    give_up = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < give_up, what
        time.sleep(0.01)
