"""A recording of the tiny world, as `dsa record` makes it."""

from __future__ import annotations

import dataclasses
import math

import pytest

from dsa_runtime import Recording, World
from dsa_runtime.recording import Played

ACTIONS = [0, 1, 3, 2, 2, 0, 1, 1, 3, 0]


def play(world: World, actions: list[int] = ACTIONS, budget_ms: float = math.inf) -> Recording:
    """Step k of the schedule in turn, so that every number of steps occurs."""
    with world.session(5, record=True) as session:
        most = world.spec.schedule.steps
        ticks = [session.step(action, budget_ms, steps=1 + index % most) for index, action in enumerate(actions)]
        recording = session.recording
    assert recording is not None
    decisions = [
        dataclasses.replace(decision, played=Played.of(tick))
        for decision, tick in zip(recording.decisions, ticks, strict=True)
    ]
    return dataclasses.replace(recording, decisions=decisions)


@pytest.fixture(scope="module")
def recording(tiny_world: World) -> Recording:
    return play(tiny_world, budget_ms=1000.0)


@pytest.fixture(scope="module")
def bare(recording: Recording) -> Recording:
    """The same, as it was made by somebody who kept no measurements."""
    decisions = [dataclasses.replace(decision, played=None) for decision in recording.decisions]
    return dataclasses.replace(recording, decisions=decisions)
