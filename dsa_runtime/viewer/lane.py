"""Lane: one session and how it is played."""

from __future__ import annotations

import dataclasses
import itertools
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ..arguments import check_steps
from ..errors import SessionError
from ..session import Session
from ..spec import WorldSpec
from ..tick import Tick
from .command import Settings

_HISTORY_S = 15.0
_HISTORY_BYTES = 64 << 20
_LEAST_HISTORY = 8
_IDS = itertools.count()


class Lane:
    """Takes over the session. One thread at a time; close it."""

    def __init__(self, session: Session, settings: Settings, picture: np.ndarray, history: int) -> None:
        """picture   where the session stands, `uint8[height, width, 3]`
        history   ticks that the session can undo, see `World.session`
        """
        self._session, self._history = session, history
        self.id = next(_IDS)
        """Of this lane alone."""
        self._undoable = 0
        self.picture = picture
        """The newest one."""
        self.settings = settings
        self.configure(settings)

    @property
    def tick(self) -> int:
        """Index of the next tick."""
        return self._session.tick

    @property
    def oldest(self) -> int:
        """The earliest tick that `rewind` can go back to."""
        return self.tick - self._undoable

    @property
    def seed(self) -> int:
        return self._session.seed

    @property
    def prompt(self) -> str | None:
        """Name of the text it is conditioned on; None in worlds that take none."""
        prompt = self._session.prompt
        return prompt if isinstance(prompt, str) else None

    def configure(self, settings: Settings) -> None:
        """From the next tick on. Raises `BudgetError`; nothing has changed then."""
        if settings.steps:
            check_steps(settings.steps, self._session.spec.schedule.steps)
        if settings.threshold != self._session.controller.threshold:
            self._session.controller = dataclasses.replace(self._session.controller, threshold=settings.threshold)
        self.settings = settings

    def say(self, prompt: str) -> None:
        """Go on with another text, by its name. What was made before cannot be gone back to. Raises `PromptError`;
        nothing has changed then."""
        self._session.set_prompt(prompt)
        self._undoable = 0

    def step(self, action: Any) -> Tick:
        """Advance by one tick, as the settings say."""
        settings = self.settings
        tick = self._session.step(action, settings.allowed_ms, steps=settings.steps or None)
        self.picture = tick.pixels
        self._undoable = min(self._undoable + 1, self._history)
        return tick

    def rewind(self, tick: int) -> None:
        """Back to where `tick` is the next one. Raises `SessionError` for one that is too long ago."""
        undone = self.tick - tick
        self.picture = self._session.rewind(undone)
        self._undoable -= undone

    def reset(self, seed: int) -> None:
        """Start over."""
        self.picture = self._session.reset(seed)
        self._undoable = 0

    def fork(self, settings: Settings) -> Lane:
        """Another lane that goes on from here."""
        (branch,) = self._session.fork()
        return Lane(branch, settings, self.picture, self._history)

    def recording(self) -> tuple[str, bytes]:
        """Name and content of a file that `dsa replay` draws again: all ticks since the reset that were not undone."""
        recording = self._session.recording
        assert recording is not None
        if not recording.decisions:
            raise SessionError("recording: there is no tick in it yet; play first")
        with tempfile.TemporaryDirectory(prefix="dsa-play-") as folder:
            recording.save(path := Path(folder, "recording"))
            return f"{recording.world}-seed{recording.seed}-{len(recording.decisions)}.dsarec", path.read_bytes()

    def close(self) -> None:
        """Idempotent."""
        self._session.close()


def history_of(spec: WorldSpec) -> int:
    """Ticks to keep for going back: some seconds of play, unless that would take too much memory."""
    cache = spec.cache
    numbers = 2 * cache.layers * math.prod(cache.slot_shape) + sum(map(math.prod, spec.decoder.state))
    tick_bytes = numbers * np.dtype(np.float32).itemsize
    wanted = round(_HISTORY_S * 1000 / spec.frame.period_ms)
    return max(min(wanted, _HISTORY_BYTES // tick_bytes), _LEAST_HISTORY)
