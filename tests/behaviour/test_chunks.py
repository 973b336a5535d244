"""Worlds whose tick is a chunk of pictures, with a prompt: whichever way they are reached."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from dsa_runtime import PromptError, load_world
from tests.behaviour.conftest import doors_of
from tests.behaviour.door import AnySession, Door
from tests.chunk_world import PICTURES, PROMPTS, TEXT_TOKENS, TEXT_WIDTH, write_chunk_world
from tests.stages import Gate

ACTIONS = [0, 1, 3, 2, 2]
EMBEDDINGS = np.random.default_rng(5).normal(size=(2, TEXT_WIDTH)).astype(np.float32)
MISSED_MS = 60.0


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Door]]:
    package = write_chunk_world(tmp_path_factory.mktemp("worlds") / "chunks", begins_with=2)
    with load_world(package, threads=1) as world, doors_of(world, package, tmp_path_factory) as found:
        yield found


def play(session: AnySession, actions: list[int] = ACTIONS) -> list[np.ndarray]:
    """All pictures of these ticks, two denoising steps each."""
    return [session.step(action, math.inf, steps=2).frames for action in actions]


@pytest.fixture(scope="module")
def expected(doors: dict[str, Door]) -> list[np.ndarray]:
    with doors["python"].session(7) as undisturbed:
        return play(undisturbed)


def test_a_tick_has_all_its_pictures_bit_for_bit(door: Door, expected: list[np.ndarray]) -> None:
    with door.session(7) as session:
        found = play(session)
        tick = session.step(1)
        assert tick.budget_ms == 250.0  # of four pictures, sixteen a second
        assert tick.frames.shape == (PICTURES, 8, 8, 3)
        np.testing.assert_array_equal(tick.pixels, tick.frames[-1])
    np.testing.assert_array_equal(found, expected)


def test_where_a_session_stands_is_one_picture(door: Door, expected: list[np.ndarray]) -> None:
    with door.session(7, history=2) as session:
        play(session, ACTIONS[:3])
        taken = session.snapshot()
        np.testing.assert_array_equal(session.rewind(1), expected[1][-1])
        np.testing.assert_array_equal(session.restore(taken), expected[2][-1])
        [branch] = session.fork()
        with branch:
            np.testing.assert_array_equal(play(branch, ACTIONS[3:]), expected[3:])
        assert session.reset(7).shape == (8, 8, 3)
        np.testing.assert_array_equal(play(session), expected)


def test_a_missed_tick_shows_the_newest_picture_throughout(
    lone_door: Door, expected: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    with lone_door.session(7, on_miss="repeat") as session:
        first = play(session, ACTIONS[:1])[0]
        with monkeypatch.context() as patch:
            gate = Gate(patch, "denoise")
            missed = session.step(1, MISSED_MS)
            gate.open.set()
        assert missed.status == "repeated"
        np.testing.assert_array_equal(missed.frames, np.stack([first[-1]] * PICTURES))


@pytest.mark.parametrize("prompt", [PROMPTS[1], EMBEDDINGS], ids=["name", "embeddings"])
def test_a_prompt_is_that_of_a_session_in_this_process(
    door: Door, doors: dict[str, Door], expected: list[np.ndarray], prompt: Any
) -> None:
    with doors["python"].session(7) as near, door.session(7) as far, door.session(7, prompt=prompt) as asked:
        for session in (near, far):
            play(session, ACTIONS[:3])
            session.set_prompt(prompt)
        drawn = play(near, ACTIONS[3:])
        assert not np.array_equal(drawn, expected[3:])
        np.testing.assert_array_equal(play(far, ACTIONS[3:]), drawn)
        near.reset(7)
        there = play(near)
        np.testing.assert_array_equal(play(asked), there)
        far.reset(7)
        np.testing.assert_array_equal(play(far), there)
        asked.set_prompt(PROMPTS[0])
        asked.restore(far.snapshot())
        np.testing.assert_array_equal(play(asked), play(far))


@pytest.mark.parametrize(
    ("prompt", "problem"),
    [
        ("a calm see", "expected one of .*'a calm sea'"),
        (np.zeros((TEXT_TOKENS + 1, TEXT_WIDTH), np.float32), r"embeddings \[at most 3, 5\]"),
        (np.zeros((0, TEXT_WIDTH), np.float32), r"embeddings \[at most 3, 5\]"),
        (np.full((1, TEXT_WIDTH), np.nan, np.float32), "the embeddings must be finite"),
    ],
)
def test_a_wrong_prompt_changes_nothing(door: Door, expected: list[np.ndarray], prompt: Any, problem: str) -> None:
    with door.session(7) as session:
        frames = play(session, ACTIONS[:2])
        with pytest.raises(PromptError, match=f"^prompt: .*{problem}"):
            session.set_prompt(prompt)
        with pytest.raises(PromptError, match=r"^prompt: "):
            door.session(7, prompt=prompt)
        np.testing.assert_array_equal(frames + play(session, ACTIONS[2:]), expected)
