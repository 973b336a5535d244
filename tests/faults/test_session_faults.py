"""A call that fails leaves the session as it was: its frames are those of a session it never happened to."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from dsa_runtime import ActionError, BudgetError, EngineError, Session, SessionError, World
from dsa_runtime.workspace import Workspace
from tests.stages import patch_stage, settle

ACTIONS = [0, 1, 3, 2, 2, 0]


def play(session: Session, actions: list[int] = ACTIONS) -> list[np.ndarray]:
    return [session.step(action, math.inf).pixels for action in actions]


@pytest.fixture
def session(tiny_world: World) -> Iterator[Session]:
    with tiny_world.session(7) as opened:
        yield opened


@pytest.fixture
def expected(tiny_world: World) -> list[np.ndarray]:
    with tiny_world.session(7) as undisturbed:
        return play(undisturbed)


def fail_once(monkeypatch: pytest.MonkeyPatch, stage: str, after: int = 0) -> None:
    """Let one run of a stage fail, as ONNX Runtime would; runs before and after it are real."""

    def fail(_: Workspace, count: int) -> None:
        if count == after + 1:
            raise EngineError(f"{stage}: made to fail")

    patch_stage(monkeypatch, stage, fail)


@pytest.mark.parametrize("method", ["denoise", "decode"])
@pytest.mark.parametrize("after", [0, 1])
def test_a_failing_stage_changes_nothing(
    session: Session, expected: list[np.ndarray], monkeypatch: pytest.MonkeyPatch, method: str, after: int
) -> None:
    frames = play(session, ACTIONS[:2])
    used = session._runtime.cache.used
    fail_once(monkeypatch, method, after)
    if method == "decode" and after:
        frames += play(session, ACTIONS[2:3])
    with pytest.raises(EngineError, match="made to fail"):
        session.step(3, math.inf, steps=4)
    assert session.tick == len(frames)
    settle(session)
    assert session._runtime.cache.used == used
    frames += play(session, ACTIONS[len(frames) :])
    np.testing.assert_array_equal(frames, expected)


def test_a_failed_commit_is_repeated_by_the_next_step(
    session: Session, expected: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = play(session, ACTIONS[:2])
    settle(session)
    used = session._runtime.cache.used
    fail_once(monkeypatch, "commit")
    frames += play(session, ACTIONS[2:])
    settle(session)
    np.testing.assert_array_equal(frames, expected)
    assert session._runtime.cache.used == used


def test_a_commit_that_keeps_failing_is_an_error_and_can_be_tried_again(
    session: Session, expected: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> int:
        raise EngineError("commit: broken")

    with monkeypatch.context() as patch:
        patch.setattr(Workspace, "commit", broken)
        frames = play(session, ACTIONS[:1])
        for _ in range(3):
            with pytest.raises(EngineError, match="commit: broken"):
                session.step(ACTIONS[1], math.inf)
        assert session.tick == 1
    frames += play(session, ACTIONS[1:])
    np.testing.assert_array_equal(frames, expected)


def test_a_real_failure_inside_onnx_runtime(session: Session, expected: list[np.ndarray]) -> None:
    """A table that points far outside the pool: Gather refuses, and the next tick is right again."""
    frames = play(session, ACTIONS[:2])
    settle(session)
    slots = session._window._slots
    session._window._slots = (10**6, *slots[1:])
    with pytest.raises(EngineError, match=r"denoise: .*indices"):
        session.step(3)
    session._window._slots = slots
    frames += play(session, ACTIONS[2:])
    np.testing.assert_array_equal(frames, expected)


def test_a_confidence_that_is_no_number(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Workspace.denoise

    def poisoned(workspace: Workspace, step: int) -> int:
        cost = real(workspace, step)
        workspace.logits[step - 1] = np.nan
        return cost

    monkeypatch.setattr(Workspace, "denoise", poisoned)
    with pytest.raises(EngineError, match="confidence logit of step 1 is nan"):
        session.step(0)
    assert session.tick == 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("fire",), ActionError), ((4,), ActionError), ((-1,), ActionError), ((1.0,), ActionError),
        ((None,), ActionError), ((math.nan,), ActionError), (([0],), ActionError),
        ((0, 0), BudgetError), ((0, -5.0), BudgetError), ((0, math.nan), BudgetError),
        ((0, "33"), BudgetError),
        ((0, True), BudgetError), ((0, -math.inf), BudgetError),
    ],
)  # fmt: skip
def test_bad_arguments_change_nothing(
    session: Session, expected: list[np.ndarray], arguments: tuple[Any, ...], error: type[Exception]
) -> None:
    frames = play(session, ACTIONS[:1])
    with pytest.raises(error):
        session.step(*arguments)
    frames += play(session, ACTIONS[1:])
    np.testing.assert_array_equal(frames, expected)


@pytest.mark.parametrize("steps", [0, 5, -1, 1.5, True, "2"])
def test_bad_step_counts(session: Session, steps: Any) -> None:
    with pytest.raises(BudgetError, match=r"^steps: "):
        session.step(0, steps=steps)
    assert session.tick == 0


@pytest.mark.parametrize("seed", [-1, 2**64, math.nan, 1.0, None, "7", True])
def test_bad_seeds(tiny_world: World, session: Session, expected: list[np.ndarray], seed: Any) -> None:
    used = session._runtime.cache.used
    with pytest.raises(SessionError, match=r"^seed: "):
        tiny_world.session(seed)
    with pytest.raises(SessionError, match=r"^seed: "):
        session.reset(seed)
    assert session._runtime.cache.used == used
    np.testing.assert_array_equal(play(session), expected)


def test_a_reset_that_fails_leaves_the_session_playing(
    session: Session, expected: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = play(session, ACTIONS[:3])
    settle(session)
    used = session._runtime.cache.used

    def broken(*_: Any) -> Any:
        raise EngineError("encode: broken")

    with monkeypatch.context() as patch:
        patch.setattr(session._runtime.engine, "encode", broken)
        with pytest.raises(EngineError):
            session.reset(1)
    with monkeypatch.context() as patch:
        patch.setattr("dsa_runtime.workspace.Workspace.commit", broken)
        with pytest.raises(EngineError):
            session.reset(1)
    assert (session.tick, session.seed, session._runtime.cache.used) == (3, 7, used)
    frames += play(session, ACTIONS[3:])
    np.testing.assert_array_equal(frames, expected)


def test_after_close_every_call_is_refused(tiny_world: World) -> None:
    session = tiny_world.session(0)
    session.step(0)
    session.close()
    for call in (lambda: session.step(0), lambda: session.reset(0)):
        with pytest.raises(SessionError, match="closed"):
            call()
    session.close()


def test_a_session_that_fails_to_open_leaves_nothing(tiny_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    used = tiny_world._cache.used

    def broken(*_: Any) -> int:
        raise EngineError("commit: broken")

    monkeypatch.setattr("dsa_runtime.workspace.Workspace.commit", broken)
    with pytest.raises(EngineError):
        tiny_world.session(0)
    assert tiny_world._cache.used == used
