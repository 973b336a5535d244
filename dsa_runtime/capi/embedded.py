"""The Python half of libdsa_runtime: what its C half (`bindings/c/runtime/`) asks, answered by the SDK.

Imported by the library when it has started Python, which then calls `attach`. Every call comes with a buffer for a
message and gets `ANSWER + status` back, whatever happens: a Python error never looks like success. Only steps go past
this: the C half calls `Session.step` itself, and reads the `Tick`.
"""

from __future__ import annotations

import gc
import itertools
import logging
import sys
from collections.abc import Callable
from math import inf
from typing import Any

from .. import __version__, errors
from .sources import source_digest as source_digest  # the library compares it with its own
from .structs import Structs

# As in dsa_runtime.h.
OK, E_BUFFER, E_INTERNAL = 0, -5, -6
STATUS_OF: dict[type[BaseException], int] = {
    errors.WorldError: -7,
    errors.ActionError: -8,
    errors.BudgetError: -9,
    errors.QualityError: -10,
    errors.SessionError: -11,
    errors.EngineError: -13,
    errors.DeadlineError: -14,
    errors.CancelledError: -15,
    errors.SnapshotError: -16,
    errors.PromptError: -22,
    MemoryError: -19,
}
_MESSAGE_BYTES = 1023  # DSA_PY_MESSAGE_BYTES, without the 0 at its end
_SNAPSHOT_MARGIN = 1024  # the header of a snapshot is of some hundred bytes, and grows with the digits in it
_LOG = logging.getLogger("dsa_runtime")


class Halves:
    """Worlds and sessions by the numbers under which the C half knows them."""

    def __init__(self, ffi: Any, lib: Any) -> None:
        self._ffi, self._lib = ffi, lib
        self._structs = Structs(ffi)
        self._numbers = itertools.count(1)
        self._worlds: dict[int, tuple[Any, Any]] = {}  # and what its dsa_spec points to
        self._sessions: dict[int, tuple[Any, Any]] = {}  # and what its steppers point to
        self._owner = bool(lib.dsa_host_owns_python())

    def calls(self) -> dict[str, Callable[..., int]]:
        """What answers the calls of `python_calls.h`, by the ends of their names; without their messages."""
        prefixes = ("thread_", "runtime_", "world_", "session_")
        return {name: getattr(self, name) for name in dir(self) if name.startswith(prefixes)}

    def thread_meet(self) -> int:
        return OK

    def runtime_open(self, log_level: int) -> int:
        from .. import world  # noqa: F401  numpy and ONNX Runtime: here, where errors are reported, and not in a tick

        if self._owner and not _LOG.handlers:
            _LOG.addHandler(_HostLog(self._ffi, self._lib))
            _LOG.propagate = False  # to nobody but the host; Python would print what nobody takes
            sys.unraisablehook = _log_unraisable
        elif not any(isinstance(handler, _HostLog) for handler in _LOG.handlers):
            _LOG.addHandler(_HostLog(self._ffi, self._lib))
        if self._owner:
            _LOG.setLevel(min(log_level, _LOG.level or log_level))
        _LOG.info("dsa-runtime %s on Python %s", __version__, sys.version.split()[0])
        return OK

    def world_open(self, config: Any, number: Any, spec: Any) -> int:
        from ..world import load_world

        world = load_world(**self._structs.world_options(config))
        kept = self._structs.fill_spec(spec, world)
        number[0] = next(self._numbers)
        self._worlds[number[0]] = world, kept
        _LOG.info("world %s %s, form %s: %s", world.spec.name, world.spec.version, world.form, world.form_reason)
        return OK

    def world_close(self, number: int) -> int:
        self._worlds.pop(number)[0].close()
        return OK

    def session_open(self, world_number: int, config: Any, controller: Any, number: Any) -> int:
        world = self._worlds[world_number][0]
        options = self._structs.session_options(config)
        session = world.session(controller=self._structs.controller(controller), **options)
        number[0] = self._adopt(session)
        return OK

    def session_close(self, number: int) -> int:
        self._sessions.pop(number)[0].close()
        return OK

    def session_prepare(self, number: int) -> int:
        """A tick of a fork goes the whole way, and leaves no trace but warm code and caches."""
        session = self._sessions[number][0]
        with session.fork()[0] as rehearsal:
            space = session.spec.action_space
            rehearsal.step(self._structs.some_action(space), inf)
        if self._owner:
            gc.collect()
            gc.freeze()  # what is there now stays; a collection need not look at it again
        return OK

    def session_stepper(self, number: int, stepper: Any) -> int:
        session, _ = self._sessions[number]
        self._sessions[number] = session, self._structs.fill_stepper(stepper, session, report)
        return OK

    def session_cancel(self, number: int, cancelled: Any) -> int:
        cancelled[0] = self._sessions[number][0].cancel()
        return OK

    def session_reset(self, number: int, seed: int, frame: Any) -> int:
        self._show(self._sessions[number][0].reset(seed), frame)
        return OK

    def session_rewind(self, number: int, ticks: int, frame: Any) -> int:
        self._show(self._sessions[number][0].rewind(ticks), frame)
        return OK

    def session_snapshot(self, number: int, buffer: Any, capacity: int, size: Any) -> int:
        snapshot = self._sessions[number][0].snapshot()
        size[0] = len(snapshot)
        if not buffer:
            size[0] += _SNAPSHOT_MARGIN
        elif capacity < len(snapshot):
            raise _TooSmall(f"capacity: this snapshot has {len(snapshot)} bytes, got {capacity}")
        else:
            self._ffi.memmove(buffer, snapshot, len(snapshot))
        return OK

    def session_restore(self, number: int, snapshot: Any, size: int, frame: Any) -> int:
        self._show(self._sessions[number][0].restore(bytes(self._ffi.buffer(snapshot, size))), frame)
        return OK

    def session_fork(self, number: int, count: int, numbers: Any) -> int:
        for place, fork in enumerate(self._sessions[number][0].fork(count)):
            numbers[place] = self._adopt(fork)
        return OK

    def session_configure(self, number: int, controller: Any) -> int:
        self._sessions[number][0].controller = self._structs.controller(controller)
        return OK

    def session_controller(self, number: int, controller: Any) -> int:
        self._structs.fill_controller(controller, self._sessions[number][0].controller)
        return OK

    def session_set_prompt(self, number: int, name: Any) -> int:
        self._sessions[number][0].set_prompt(self._structs.words(name))
        return OK

    def session_set_text(self, number: int, embeddings: Any, tokens: int) -> int:
        session = self._sessions[number][0]
        session.set_prompt(self._structs.embeddings(embeddings, tokens, session.spec.text.width))
        return OK

    def session_where(self, number: int, state: Any) -> int:
        self._structs.fill_state(state, self._sessions[number][0])
        return OK

    def _adopt(self, session: Any) -> int:
        number = next(self._numbers)
        self._sessions[number] = session, None
        return number

    def _show(self, picture: Any, frame: Any) -> None:
        if frame:
            self._ffi.memmove(frame, picture, picture.nbytes)


class _TooSmall(Exception):
    """A buffer of the caller's is too small."""


class _HostLog(logging.Handler):
    """Hands what the SDK logs to the host."""

    def __init__(self, ffi: Any, lib: Any) -> None:
        super().__init__()
        self._ffi, self._lib = ffi, lib

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record).replace("\n", " | ")
        self._lib.dsa_host_log(record.levelno, self._ffi.new("char[]", text.encode(errors="replace")))


def _log_unraisable(found: Any) -> None:
    """In place of Python's, which prints."""
    _LOG.error("%s", found.err_msg or "an error that nobody could catch", exc_info=found.exc_value)


def attach(ffi: Any, lib: Any) -> None:
    """Make the calls of the library that `ffi` and `lib` belong to arrive here."""
    for name, call in Halves(ffi, lib).calls().items():
        ffi.def_extern(name=f"dsa_py_{name}", onerror=_unanswered)(_answering(ffi, lib.DSA_PY_ANSWER, call))


def _answering(ffi: Any, answer: int, call: Callable[..., int]) -> Callable[..., int]:
    def answered(*arguments: Any) -> int:
        try:
            return answer + call(*arguments[:-1])
        except BaseException as error:  # SystemExit too: the process is the host's
            status, words = report(error)
            ffi.memmove(arguments[-1], words + b"\0", len(words) + 1)
            return answer + status

    return answered


def report(error: BaseException) -> tuple[int, bytes]:
    """Status and message of an error, as the C half takes them."""
    status, words = _reported(error)
    return status, words.encode(errors="replace")[:_MESSAGE_BYTES].decode(errors="ignore").encode()  # no half letter


def _unanswered(kind: Any, error: Any, trace: Any) -> None:
    """Not even the answer could be given; cffi then returns 0, which is none. Without this it would also print."""


def _reported(error: BaseException) -> tuple[int, str]:
    """Status and message of an error."""
    if isinstance(error, _TooSmall):
        return E_BUFFER, str(error)
    for kind, status in STATUS_OF.items():
        if isinstance(error, kind):
            return status, str(error) or kind.__name__
    _LOG.error("unexpected error", exc_info=error)
    return E_INTERNAL, f"{type(error).__name__}: {error}"
