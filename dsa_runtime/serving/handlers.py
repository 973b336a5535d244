"""What a session's thread does with each request. Everything here may take its time."""

from __future__ import annotations

import dataclasses
import math
import secrets
from collections.abc import Callable, Mapping
from functools import partial
from time import perf_counter_ns
from typing import Any

import numpy as np

from .. import errors
from ..controller import Controller
from ..errors import BudgetError, CancelledError, DsaError
from ..job import MS_PER_NS
from ..session import Session
from . import fields as read
from .host import Hosted, Outcome, Request
from .observer import label
from .outlet import Outlet
from .spectator import TOPIC_BYTES
from .wire import Buffer, Message, WireError, error_message
from .wire_prompt import prompt_of
from .wire_tick import NO_BUDGET, frame_fields, pictures_of

_LEAST_BUDGET_MS = 1e-3
_CODES: dict[type[DsaError], str] = {
    errors.ActionError: "invalid",
    errors.BudgetError: "invalid",
    errors.PromptError: "invalid",
    errors.QualityError: "invalid",
    errors.SessionError: "invalid",
    errors.SnapshotError: "invalid",
    errors.DeadlineError: "deadline",
    errors.CancelledError: "cancelled",
}
"""How errors that the SDK raises on purpose are answered; all leave the session as it was."""


def perform(hosted: Hosted, request: Request) -> Outcome:
    """Do what is asked. Never raises: an error is an outcome."""
    message = request.message
    try:
        return _HANDLERS[message.type](hosted, request)
    except WireError as error:
        error.id = message.id
        return Outcome(error_message(error))
    except Exception as error:
        refusal = _refusal(hosted, message, error)
        return Outcome(error_message(refusal))


def _refusal(hosted: Hosted, message: Message, error: Exception) -> WireError:
    code, kind = _CODES.get(type(error)), type(error).__name__  # type: ignore[arg-type]
    if code is not None:
        return WireError(code, str(error), id=message.id, extra={"kind": kind})
    what = f"{message.type} of session {label(hosted.sid)}"
    if isinstance(error, errors.EngineError):
        incident = hosted.around.failed(what, error)
        problem = f"the engine failed, and nothing has changed; see incident {incident} in the server's log"
        return WireError("internal", problem, id=message.id, extra={"kind": kind, "incident": incident})
    return hosted.around.defect(what, error)


def _open(hosted: Hosted, request: Request) -> Outcome:
    fields, around = request.message.fields, hosted.around
    config, world = around.config, hosted.world
    controller = read.optional(_controller, fields, "controller")
    history = 0
    if fields.get("history") is not None:
        history = read.integer(fields, "history", 0, config.history_most)
    publish = read.optional(read.boolean, fields, "publish")
    if publish and around.publisher is None:
        raise WireError("unsupported", "publish: this server has no address for spectators")
    prompt = prompt_of(request.message)
    outlet = Outlet.asked(fields, world.spec.frame, config)
    try:
        if publish:
            outlet.publish_on(around.publisher, secrets.token_bytes(TOPIC_BYTES))
        session = world.session(
            _or(fields, "seed", 0),
            threshold=fields.get("threshold"),
            max_steps=fields.get("max_steps"),
            controller=controller,
            on_miss=_or(fields, "on_miss", "best_effort"),
            history=history,
            record=config.record is not None,
            batched=config.batched and world.batchable,
            prompt=prompt,
        )
    except BaseException:
        outlet.close()
        raise
    hosted.session, hosted.outlet = session, outlet
    pixels = session._newest[1]  # the picture it starts from; a `reset` for it would encode the start context again
    described = {"world": hosted.name, "lease_ms": hosted.lease_ms, **outlet.fields()}
    return _picture(hosted, request, "opened", pixels, described)


def _step(hosted: Hosted, request: Request) -> Outcome:
    session, outlet = _parts(hosted)
    fields = request.message.fields
    budget_ms = session.spec.frame.period_ms
    if fields.get("budget_us") is not None:
        asked_us = read.integer(fields, "budget_us", NO_BUDGET, 2**53)
        if not asked_us:
            raise WireError("malformed", "budget_us: must be at least 1, or -1 for no limit, got 0")
        budget_ms = math.inf if asked_us == NO_BUDGET else asked_us / 1000
    if request.cancelled:
        raise CancelledError(f"tick {session.tick} was cancelled")
    queue_ms = (perf_counter_ns() - request.arrived_ns) * MS_PER_NS
    left_ms = max(budget_ms - queue_ms, _LEAST_BUDGET_MS)
    tick = session.step(fields.get("action"), left_ms, steps=fields.get("steps"))
    decision = frame_fields(tick, budget_ms, queue_ms)
    reply = _reply(request, "frame", {"sid": hosted.sid, **decision}, outlet.buffer(pictures_of(tick)))
    commit_ms = session.latency.quantile("commit", 0.5) or 0.0
    shown: tuple[Callable[[], None], ...] = ()
    if tick.frame_tick >= 0:  # the picture it started from has been shown already
        told = {**decision, "schedule_steps": session.spec.schedule.steps}  # without the sid: who knows it owns it
        shown = (partial(outlet.publish, tick.frame_tick, tick.pixels, told),)
    return Outcome(reply, tick, commit_ms, then=shown)


def _reset(hosted: Hosted, request: Request) -> Outcome:
    session, _ = _parts(hosted)
    seed = read.uint64(request.message.fields, "seed")
    return _moved(hosted, request, partial(session.reset, seed))


def _restore(hosted: Hosted, request: Request) -> Outcome:
    session, _ = _parts(hosted)
    snapshot = request.message.buffer("snapshot")
    if snapshot.data is None or snapshot.encoding != "raw":
        raise WireError("malformed", "bufs.snapshot: expected raw bytes in a part")
    return _moved(hosted, request, partial(session.restore, bytes(snapshot.data)))


def _rewind(hosted: Hosted, request: Request) -> Outcome:
    session, _ = _parts(hosted)
    ticks = read.integer(request.message.fields, "ticks", 0, 1 << 20)
    return _moved(hosted, request, partial(session.rewind, ticks))


def _snapshot(hosted: Hosted, request: Request) -> Outcome:
    session, _ = _parts(hosted)
    data = session.snapshot()  # first: it may finish a tick, or find that one has failed
    described = {"sid": hosted.sid, "tick": session.tick, "seed": session.seed}
    return Outcome(_reply(request, "snapshot", described, Buffer.of_bytes("snapshot", data)))


def _fork(hosted: Hosted, request: Request) -> Outcome:
    session, outlet = _parts(hosted)
    config, frame = hosted.around.config, session.spec.frame
    mode = "part" if outlet.mode == "shm" else outlet.mode
    branches = {
        secrets.randbits(64): (branch, Outlet(frame, config, mode, outlet.quality))
        for branch in session.fork(_or(request.message.fields, "n", 1))
    }
    return Outcome(_reply(request, "forked", {"sid": hosted.sid, "sids": list(branches)}), branches=branches)


def _configure(hosted: Hosted, request: Request) -> Outcome:
    session, outlet = _parts(hosted)
    fields = request.message.fields
    controller = read.optional(_controller, fields, "controller")
    successor = None
    if fields.get("frames") is not None or fields.get("quality") is not None:
        successor = Outlet.asked(fields, session.spec.frame, hosted.around.config, outlet.mode)
    if controller is not None:
        try:
            session.controller = controller
        except BaseException:
            if successor is not None:
                successor.close()
            raise
    if successor is not None:
        successor.succeed(outlet)
        hosted.outlet = successor
    described = {} if successor is None else successor.fields()
    return Outcome(_reply(request, "configured", {"sid": hosted.sid, **described}))


def _set_prompt(hosted: Hosted, request: Request) -> Outcome:
    session, _ = _parts(hosted)
    prompt = prompt_of(request.message)
    if prompt is None:
        raise WireError("malformed", "prompt: missing field, expected a name, or a buffer of embeddings")
    session.set_prompt(prompt)
    return Outcome(_reply(request, "prompted", {"sid": hosted.sid, "tick": session.tick}))


def _close(hosted: Hosted, request: Request) -> Outcome:
    if hosted.session is not None:
        hosted.save(hosted.session.recording)
        hosted.session.close()
    if hosted.outlet is not None:
        hosted.outlet.close()
    return Outcome(_reply(request, "closed", {"sid": hosted.sid}))


def _hand_over(hosted: Hosted, request: Request) -> Outcome:
    if hosted.session is None:  # it could not be opened
        return Outcome(_reply(request, "handover", {"sid": hosted.sid}))
    session = hosted.session
    data = session.snapshot()  # first, as above
    described = {"sid": hosted.sid, "tick": session.tick}
    return Outcome(_reply(request, "handover", described, Buffer.of_bytes("snapshot", data)))


_HANDLERS: dict[str, Callable[[Hosted, Request], Outcome]] = {
    "open": _open,
    "step": _step,
    "reset": _reset,
    "restore": _restore,
    "rewind": _rewind,
    "snapshot": _snapshot,
    "fork": _fork,
    "configure": _configure,
    "prompt": _set_prompt,
    "close": _close,
    "handover": _hand_over,
}


def _moved(hosted: Hosted, request: Request, move: Callable[[], np.ndarray]) -> Outcome:
    """The outcome of going somewhere else. A recording that ends by it is kept."""
    session, _ = _parts(hosted)
    recording = session.recording
    pixels, prompt = move(), session.prompt  # a snapshot holds no name, only the session knows what it is called
    named = {"prompt": prompt} if isinstance(prompt, str) else {}
    outcome = _picture(hosted, request, "picture", pixels, named)
    if session.recording is not recording:
        outcome = dataclasses.replace(outcome, then=(*outcome.then, partial(hosted.save, recording)))
    return outcome


def _picture(hosted: Hosted, request: Request, kind: str, pixels: np.ndarray, more: Mapping[str, Any] = {}) -> Outcome:
    session, outlet = _parts(hosted)
    described = {"sid": hosted.sid, "tick": session.tick, "seed": session.seed, **more}
    reply = _reply(request, kind, described, outlet.buffer(pixels))
    return Outcome(reply, then=(partial(outlet.publish, session.tick, pixels),))


def _reply(request: Request, kind: str, described: dict[str, Any], *buffers: Buffer) -> Message:
    return Message(kind, request.message.id, described, buffers)


def _parts(hosted: Hosted) -> tuple[Session, Outlet]:
    assert hosted.session is not None and hosted.outlet is not None
    return hosted.session, hosted.outlet


def _or(fields: read.Fields, name: str, default: Any) -> Any:
    """A field that the session itself checks."""
    value = fields.get(name)
    return default if value is None else value


def _controller(fields: read.Fields, name: str) -> Controller:
    """A controller from a map of some of its fields; it checks the values itself, but for this one."""
    values = read.mapping(fields, name)
    known = [field.name for field in dataclasses.fields(Controller)]
    for key, value in values.items():
        if key not in known:
            raise BudgetError(f"controller.{key}: unknown field; expected some of {', '.join(known)}")
        if key == "rescue" and not isinstance(value, bool):
            raise BudgetError(f"controller.rescue: expected true or false, got {value!r}")
    return Controller(**values)
