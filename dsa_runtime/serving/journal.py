"""Journal: what a client keeps of a session to be able to make it again, elsewhere, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..tick import Tick
from .wire import Buffer
from .wire_prompt import Prompt, prompt_parts
from .wire_tick import NO_BUDGET

Start = int | bytes
"""A seed to reset to, or a snapshot to restore."""
Request = tuple[str, dict[str, Any], tuple[Buffer, ...]]
"""Type, fields and buffers."""


@dataclass(frozen=True)
class Move:
    """One tick that the world has made."""

    action: Any
    """As it was sent."""
    steps: int | None
    """Denoising steps taken; None where the server did not say: the tick was answered with the frame before it."""

    def request(self) -> Request:
        """To do it again."""
        return "step", {"action": self.action, "steps": self.steps, "budget_us": NO_BUDGET}, ()


@dataclass(frozen=True, eq=False)
class Swap:
    """The text was changed. Nothing before it can be undone."""

    prompt: Prompt

    def request(self) -> Request:
        """To do it again."""
        return "prompt", *prompt_parts(self.prompt)


@dataclass
class _Stretch:
    start: Start
    moves: list[Move | Swap] = field(default_factory=list)


class Journal:
    """A start, and the moves since. Pure bookkeeping.

    Where the session can be rewound, as many moves are kept as that can undo.
    """

    def __init__(self, start: Start, every: int, history: int) -> None:
        """every     ticks after which a new snapshot is due
        history   ticks that can be undone
        """
        self._every, self._history = every, history
        self._stretches = [_Stretch(start)]
        self.is_exact = True
        """Whether all steps are known, so that doing it all again gives the same frames."""

    @property
    def start(self) -> Start:
        """What to begin with."""
        return self._stretches[0].start

    def moves(self) -> Iterator[Move | Swap]:
        """What to do then, oldest first."""
        for stretch in self._stretches:
            yield from stretch.moves

    @property
    def is_due(self) -> bool:
        """Whether it is time for `checkpoint`: the newest one is old, or steps are missing and the tick has ended."""
        moves = self._stretches[-1].moves
        under_way = bool(moves) and isinstance(moves[-1], Move) and moves[-1].steps is None
        return len(moves) >= self._every or (bool(moves) and not under_way and not self.is_exact)

    def note(self, action: Any, tick: Tick) -> None:
        """A tick has come back."""
        if tick.status != "skipped":  # then the world did not move
            self._stretches[-1].moves.append(Move(action, tick.steps or None))
            self.is_exact &= tick.steps > 0

    def swap(self, prompt: Prompt) -> None:
        """The text was changed."""
        self._stretches[-1].moves.append(Swap(prompt))

    def begin(self, start: Start) -> None:
        """The session was reset or restored."""
        self._stretches, self.is_exact = [_Stretch(start)], True

    def checkpoint(self, snapshot: bytes) -> None:
        """The session as it is now. What lies too far back to be undone is forgotten."""
        if not self.is_exact:
            self._stretches, self.is_exact = [], True
        self._stretches.append(_Stretch(snapshot))
        while len(self._stretches) > 1 and sum(len(s.moves) for s in self._stretches[1:]) >= self._history:
            del self._stretches[0]

    def rewind(self, ticks: int) -> None:
        """The last moves were undone. It stays inexact if it was: which they were is not known, as the newest move
        that was noted may never have been. It becomes so where they are more than it knows of."""
        for _ in range(ticks):
            while self._stretches and not self._stretches[-1].moves:
                self._stretches.pop()
            if not self._stretches:
                self._stretches, self.is_exact = [_Stretch(b"")], False
                return
            self._stretches[-1].moves.pop()

    def copy(self) -> Journal:
        """For a fork, which goes on from here and cannot be rewound beyond."""
        twin = Journal(self.start, self._every, self._history)
        twin._stretches = [_Stretch(stretch.start, stretch.moves.copy()) for stretch in self._stretches]
        twin.is_exact = self.is_exact
        return twin
