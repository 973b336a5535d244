"""The journal: what it says to do again is what was done."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dsa_runtime.serving.journal import Journal, Move
from dsa_runtime.tick import Tick


def tick(steps: int = 2, status: Any = "ok") -> Tick:
    latency: Any = {}
    return Tick(np.zeros(0), 0, 0, steps, 1.0, None, "ceiling", 1.0, 0.0, 0.0, status, latency)


def walked(journal: Journal, *actions: int) -> Journal:
    for action in actions:
        journal.note(action, tick())
    return journal


def told(journal: Journal) -> tuple[Any, list[int]]:
    return journal.start, [move.action for move in journal.moves() if isinstance(move, Move)]


def test_moves_follow_the_start() -> None:
    journal = walked(Journal(7, 10, 0), 1, 2)
    journal.note(3, tick(4))
    assert journal.start == 7
    assert list(journal.moves()) == [Move(1, 2), Move(2, 2), Move(3, 4)]
    journal.begin(b"snapshot")
    assert told(walked(journal, 5)) == (b"snapshot", [5])


def test_a_checkpoint_is_due_after_so_many_moves_and_takes_their_place() -> None:
    journal = walked(Journal(7, 3, 0), 1, 2)
    assert not journal.is_due
    assert walked(journal, 3).is_due
    journal.checkpoint(b"a")
    assert not journal.is_due
    assert told(walked(journal, 4)) == (b"a", [4])


@pytest.mark.parametrize(
    ("history", "start", "kept"), [(2, b"b", [4, 5]), (3, b"a", [3, 4, 5]), (5, 7, [1, 2, 3, 4, 5])]
)
def test_what_can_be_undone_is_kept(history: int, start: Any, kept: list[int]) -> None:
    journal = walked(Journal(7, 9, history), 1, 2)
    journal.checkpoint(b"a")
    walked(journal, 3)
    journal.checkpoint(b"b")
    walked(journal, 4, 5)
    journal.checkpoint(b"c")
    assert told(journal) == (start, kept)


def test_rewinding_goes_back_across_checkpoints() -> None:
    journal = walked(Journal(7, 9, 5), 1, 2)
    journal.checkpoint(b"a")
    walked(journal, 3)
    journal.checkpoint(b"b")
    walked(journal, 4, 5)
    journal.rewind(0)
    assert told(journal) == (7, [1, 2, 3, 4, 5])
    journal.rewind(3)
    assert told(walked(journal, 6)) == (7, [1, 2, 6])
    journal.rewind(3)
    assert told(journal) == (7, [])


def test_moves_of_unknown_steps_make_it_inexact_until_a_checkpoint_after_their_end() -> None:
    journal = walked(Journal(7, 9, 5), 1)
    journal.note(2, tick(0, "repeated"))
    journal.note(3, tick(0, "skipped"))
    assert told(journal) == (7, [1, 2])
    assert not journal.is_exact
    assert not journal.is_due  # the tick may still be under way, and would be waited for
    assert walked(journal, 4).is_due
    twin = journal.copy()
    journal.checkpoint(b"a")
    assert journal.is_exact and not journal.is_due
    assert told(journal) == (b"a", [])
    assert not twin.is_exact


def test_going_back_does_not_make_it_exact() -> None:
    """The newest move it knows of may never have been, and then it is another one that was undone."""
    journal = walked(Journal(7, 9, 5), 1, 2)
    journal.note(3, tick(0, "repeated"))
    journal.is_exact = False  # it has failed, and is no more
    journal.rewind(1)
    assert not journal.is_exact
    journal.checkpoint(b"a")
    assert journal.is_exact and told(journal) == (b"a", [])


def test_going_back_farther_than_it_knows() -> None:
    journal = walked(Journal(7, 9, 5), 1)
    journal.note(2, tick(0, "repeated"))
    journal.checkpoint(b"a")  # the moves before are not known well enough to be kept
    walked(journal, 3).rewind(2)
    assert not journal.is_exact
    journal.checkpoint(b"b")
    assert told(walked(journal, 4)) == (b"b", [4])


def test_a_swap_is_done_again_in_its_place_and_outlives_a_rewind() -> None:
    journal = walked(Journal(7, 9, 5), 1)
    journal.swap("a storm")
    walked(journal, 2).checkpoint(b"a")
    walked(journal, 3).rewind(2)
    assert journal.start == 7
    assert [move.request() for move in journal.moves()] == [
        ("step", {"action": 1, "steps": 2, "budget_us": -1}, ()),
        ("prompt", {"prompt": "a storm"}, ()),
    ]


def test_a_copy_goes_its_own_way() -> None:
    journal = walked(Journal(7, 9, 5), 1, 2)
    twin = journal.copy()
    walked(twin, 3)
    journal.rewind(1)
    assert (told(journal), told(twin)) == ((7, [1]), (7, [1, 2, 3]))
