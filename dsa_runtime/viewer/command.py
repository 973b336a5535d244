"""Command: what a page asks for, read strictly from its text messages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import strict_json
from ..errors import ServingError, WorldError

MOST_BYTES = 1 << 16
"""Of a message."""
LEAST_BUDGET_MS, MOST_BUDGET_MS = 0.1, 60_000.0


@dataclass(frozen=True)
class Hold:
    """What is pressed from now on; the newest one counts when a tick begins."""

    held: tuple[str, ...]
    moved: tuple[float, ...]
    """See `Controls.action`."""
    stamp: float
    """When, by the page's clock; ticks carry it back."""


@dataclass(frozen=True)
class Play:
    """Go on at the world's rate."""


@dataclass(frozen=True)
class Pause:
    """Stop after the tick that is being made."""


@dataclass(frozen=True)
class StepOnce:
    """One tick, then pause."""


@dataclass(frozen=True)
class Rewind:
    """Back to where `tick` is the next one, and pause."""

    tick: int


@dataclass(frozen=True)
class Fork:
    """Go on twice, side by side, under the same actions."""


@dataclass(frozen=True)
class Keep:
    """Go on with one of the two alone."""

    lane: int


@dataclass(frozen=True)
class Reset:
    """Start over, in every lane."""

    seed: str
    """A whole number as text: JavaScript's numbers end at 2**53."""

    def __post_init__(self) -> None:
        if not (self.seed.isascii() and self.seed.isdigit() and len(self.seed) <= 20 and int(self.seed) < 2**64):
            raise WorldError(f"seed: must lie in 0..2**64 - 1, got {self.seed[:40]!r}")


@dataclass(frozen=True)
class Settings:
    """How a lane is played from the next tick on."""

    lane: int
    budget_ms: Any
    """A number of milliseconds, or null for no limit."""
    threshold: float
    """Confidence that is enough, 0..1."""
    steps: int
    """Exactly so many denoising steps; 0: as the confidence and the budget allow."""

    def __post_init__(self) -> None:
        known = type(self.budget_ms) in (int, float) and LEAST_BUDGET_MS <= self.budget_ms <= MOST_BUDGET_MS
        if self.budget_ms is not None and not known:
            raise WorldError(
                f"budget_ms: must lie in {LEAST_BUDGET_MS:g}..{MOST_BUDGET_MS:g} or be null, got {self.budget_ms!r}"
            )
        if not 0 <= self.threshold <= 1:
            raise WorldError(f"threshold: must lie in 0..1, got {self.threshold}")

    @property
    def allowed_ms(self) -> float:
        """The budget as a session takes it."""
        return math.inf if self.budget_ms is None else float(self.budget_ms)


@dataclass(frozen=True)
class Prompt:
    """Another text for a lane, from the next tick on."""

    lane: int
    prompt: str
    """The name of one of the world's prompts."""


@dataclass(frozen=True)
class Save:
    """Send the recording of a lane."""

    lane: int


@dataclass(frozen=True)
class Watch:
    """Look at this published session, by its topic in hexadecimal digits. For `--watch` alone."""

    topic: str


@dataclass(frozen=True)
class Here:
    """Somebody looks: a page has connected, or its tab is in front again."""


@dataclass(frozen=True)
class Away:
    """Nobody looks: until `Here`, nothing is played."""


@dataclass(frozen=True)
class Seen:
    """A message with pictures has arrived."""


Command = (
    Hold
    | Play
    | Pause
    | StepOnce
    | Rewind
    | Fork
    | Keep
    | Reset
    | Settings
    | Prompt
    | Save
    | Watch
    | Here
    | Away
    | Seen
)
COMMANDS: Mapping[str, type[Command]] = {
    "hold": Hold, "play": Play, "pause": Pause, "step": StepOnce, "rewind": Rewind, "fork": Fork, "keep": Keep, "reset":
    Reset, "set": Settings, "prompt": Prompt, "save": Save, "watch": Watch, "here": Here, "away": Away, "seen": Seen,
}  # fmt: skip


def read_command(text: str) -> Command:
    """The command in a message: a JSON object, its name under `do`. Raises `ServingError`, naming the field."""
    try:
        fields = strict_json.parse(text, "message")
        name = fields.pop("do", None)
        if not isinstance(name, str) or name not in COMMANDS:
            raise ServingError(f"message.do: expected one of {', '.join(COMMANDS)}, got {str(name)[:40]!r}")
        command: Command = strict_json.decode(COMMANDS[name], fields, name)
        return command
    except WorldError as error:  # `strict_json` speaks of worlds
        raise ServingError(str(error)) from None
