"""Replay: draw a recorded session's frames again, and check that they are the same."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .arguments import check_steps
from .errors import ActionError, BudgetError, PromptError, RecordingError, SnapshotError
from .prompt import embeddings
from .recording import Recording, digest
from .tick import Tick

if TYPE_CHECKING:
    from .session import Session
    from .world import World


def replay(world: World, recording: Recording, *, verify: bool = False) -> Iterator[Tick]:
    """The recorded ticks, one after the other, as fast as they can be drawn.

    Uses a session of its own, closed with the iterator. Raises `RecordingError` before the first tick for a
    recording of another world or build, or with decisions or prompts that this world does not know; and, with `verify`,
    instead of the first tick whose frame is not the recorded one.
    """
    _check(world, recording)
    return _replay(world, recording, verify)


def verify_replay(world: World, recording: Recording) -> int:
    """Replay and compare every frame with its recorded digest. Returns how many were compared.

    Raises `RecordingError` as `replay` does.
    """
    return sum(1 for _ in replay(world, recording, verify=True))


def _start(world: World, recording: Recording) -> Session:
    session = world.session(recording.seed)
    try:
        if recording.snapshot is not None:
            try:
                session.restore(recording.snapshot)
            except SnapshotError as error:
                raise RecordingError(str(error)) from None
            if (session.seed, session.tick) != (recording.seed, recording.first_tick):
                raise RecordingError(
                    f"snapshot: of seed {session.seed} at tick {session.tick}, but the recording says "
                    f"seed {recording.seed} and first_tick {recording.first_tick}; it was changed"
                )
    except BaseException:
        session.close()
        raise
    return session


def _replay(world: World, recording: Recording, verify: bool) -> Iterator[Tick]:
    with _start(world, recording) as session:
        changes = {change.tick: change.prompt for change in recording.prompts}
        for decision in recording.decisions:
            if session.tick in changes:
                session.set_prompt(changes[session.tick])
            tick = session.step(decision.action, math.inf, steps=decision.steps)
            if verify and (drawn := digest(tick.frames)) != decision.digest:
                raise RecordingError(
                    f"tick {tick.tick}: drew another frame (digest {drawn}, recorded {decision.digest}). Frames are "
                    "the same bit for bit only in the same form (recorded in the "
                    f"{recording.form} form, this is {world.form}), on the same kind of machine, with the same number "
                    "of threads, the same onnxruntime and the same operator library; if those are, the recording was "
                    "changed"
                )
            yield tick


def _check(world: World, recording: Recording) -> None:
    spec = world.spec
    here, there = f"{spec.name!r} {spec.version}", f"{recording.world!r} {recording.version}"
    if here != there:
        raise RecordingError(f"world: recorded in {there}, this is {here}; replay it in its own world")
    if recording.fingerprint != spec.fingerprint:
        raise RecordingError(
            f"fingerprint: recorded in another build of {here} ({recording.fingerprint}, this is "
            f"{spec.fingerprint}); replay it in the package it was recorded in"
        )
    for index, decision in enumerate(recording.decisions):
        try:
            spec.action_space.validate(decision.action)
            check_steps(decision.steps, spec.schedule.steps)
        except ActionError as error:
            raise RecordingError(f"decisions[{index}].action: {error}") from None
        except BudgetError as error:
            raise RecordingError(f"decisions[{index}].{error}") from None
    for index, change in enumerate(recording.prompts):
        try:
            embeddings(spec, world._prompts, change.prompt)
        except PromptError as error:
            raise RecordingError(f"prompts[{index}].{error}") from None
