"""A recording of the tiny world, as `dsa record` makes it."""

from __future__ import annotations

import dataclasses
import math

import pytest

from dsa_runtime import Recording, World

ACTIONS = [0, 1, 3, 2, 2, 0, 1, 1, 3, 0]


def play(world: World, actions: list[int] = ACTIONS, budget_ms: float = math.inf) -> Recording:
    """Step k of the schedule in turn, so that every number of steps occurs."""
    with world.session(5, record=True) as session:
        for index, action in enumerate(actions):
            session.step(action, budget_ms, steps=1 + index % world.spec.schedule.steps)
        assert session.recording is not None
        return session.recording


@pytest.fixture(scope="module")
def recording(tiny_world: World) -> Recording:
    return play(tiny_world, budget_ms=1000.0)


@pytest.fixture(scope="module")
def bare(recording: Recording) -> Recording:
    """The same, as it was made by somebody who kept no measurements."""
    decisions = [dataclasses.replace(decision, played=None) for decision in recording.decisions]
    return dataclasses.replace(recording, decisions=decisions)
