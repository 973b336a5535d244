"""Player: what a tab does with its sessions. Pure of threads, clocks and sockets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import singledispatchmethod
from typing import Any

from .. import strict_json
from ..errors import ServingError, SessionError
from ..tick import Tick
from ..world import World
from .command import Away, Command, Fork, Here, Hold, Keep, Pause, Play, Prompt, Reset, Rewind, Save, Settings, StepOnce
from .controls import Controls
from .lane import Lane, history_of
from .outbox import Outbox
from .packing import pack_file, pack_pictures, pack_ticks

NAMES = ("A", "B")


class Player:
    """One or two lanes of a world under the same actions. One thread at a time; close it."""

    def __init__(
        self,
        world: World,
        settings: Settings,
        seed: int,
        held: Callable[[], Hold | None],
        out: Outbox,
        prompt: str | None = None,
    ) -> None:
        """settings, seed   of a new tab
        held             what is pressed now; None for nothing ever
        out              where pictures and news go
        prompt           name of the text of a new tab; None for the world's first
        """
        self._world, self._held, self._out = world, held, out
        self._controls = Controls.of(world.spec.action_space)
        history = history_of(world.spec)
        session = world.session(seed, history=history, record=True, prompt=prompt)
        self._lanes = [Lane(session, settings, session.reset(seed), history)]
        self._playing, self._seen = True, False
        self.beats = 0
        """Made since it was opened."""

    @property
    def runs(self) -> bool:
        """Whether `beat` is to be called at the world's rate."""
        return self._playing and self._seen

    @property
    def period_ms(self) -> float:
        """Between two beats."""
        return self._world.spec.frame.period_ms

    def beat(self) -> None:
        """One tick in each lane. Raises what `Session.step` does; then no lane has moved, and it is paused."""
        held = self._held()
        ticks: list[Tick] = []
        try:
            action = self._controls.action(*((held.held, held.moved) if held else ((), ())))
            for lane in self._lanes:
                ticks.append(lane.step(action))
        except BaseException:
            for lane, _ in zip(self._lanes, ticks, strict=False):
                lane.rewind(lane.tick - 1)
            self._pause()
            raise
        self.beats += 1
        self._out.show(pack_ticks(ticks, self._world.spec.schedule.steps, held.stamp if held else None))

    @singledispatchmethod
    def perform(self, command: Command) -> None:
        """Do what is asked for and say how things stand. Raises `DsaError`; nothing has changed then."""
        raise ServingError(f"{type(command).__name__}: not while playing a world")

    @perform.register
    def _(self, command: Play) -> None:
        self._playing = True
        self._say_state()

    @perform.register
    def _(self, command: Pause) -> None:
        self._pause()

    @perform.register
    def _(self, command: StepOnce) -> None:
        self.beat()
        self._pause()

    @perform.register
    def _(self, command: Rewind) -> None:
        if not self._oldest <= command.tick <= self._tick:
            raise SessionError(f"rewind: ticks {self._oldest}..{self._tick} are kept, got {command.tick}")
        for lane in self._lanes:
            lane.rewind(command.tick)
        self._playing = False
        self._say_where()

    @perform.register
    def _(self, command: Fork) -> None:
        if len(self._lanes) == len(NAMES):
            raise SessionError("fork: there are two already; keep one of them first")
        first = self._lanes[0]
        # What there is to compare with: the whole schedule, whatever it costs.
        other = dataclasses.replace(first.settings, lane=1, steps=self._world.spec.schedule.steps)
        self._lanes.append(first.fork(other))
        self._say_where()

    @perform.register
    def _(self, command: Keep) -> None:
        kept = self._lane(command.lane)
        for lane in self._lanes:
            if lane is not kept:
                lane.close()
        kept.configure(dataclasses.replace(kept.settings, lane=0))
        self._lanes = [kept]
        self._say_where()

    @perform.register
    def _(self, command: Reset) -> None:
        for lane in self._lanes:
            lane.reset(int(command.seed))
        self._say_where()

    @perform.register
    def _(self, command: Settings) -> None:
        self._lane(command.lane).configure(command)
        self._say_state()

    @perform.register
    def _(self, command: Prompt) -> None:
        self._lane(command.lane).say(command.prompt)
        self._say_state()

    @perform.register
    def _(self, command: Save) -> None:
        self._out.hand_over(pack_file(*self._lane(command.lane).recording()))

    @perform.register
    def _(self, command: Here) -> None:
        self._seen = True
        self._say_where()

    @perform.register
    def _(self, command: Away) -> None:
        self._seen = False

    def close(self) -> None:
        """Idempotent."""
        for lane in self._lanes:
            lane.close()

    @property
    def _tick(self) -> int:
        return min(lane.tick for lane in self._lanes)

    @property
    def _oldest(self) -> int:
        return max(lane.oldest for lane in self._lanes)

    def _lane(self, index: int) -> Lane:
        if not 0 <= index < len(self._lanes):
            raise SessionError(f"lane: expected 0..{len(self._lanes) - 1}, got {index}")
        return self._lanes[index]

    def _pause(self) -> None:
        self._playing = False
        self._say_state()

    def _say_where(self) -> None:
        """After a jump."""
        self._say_state()
        self._out.show(pack_pictures([lane.picture for lane in self._lanes], {"tick": self._tick}))

    def _say_state(self) -> None:
        state: dict[str, Any] = {
            "playing": self._playing,
            "seed": str(self._lanes[0].seed),
            "tick": self._tick,
            "oldest": self._oldest,
            "lanes": [_describe(lane) for lane in self._lanes],
        }
        self._out.say("state", state)


def _describe(lane: Lane) -> dict[str, Any]:
    said = {} if lane.prompt is None else {"prompt": lane.prompt}
    return {"id": lane.id, **strict_json.encode(lane.settings), **said}
