"""libdsa_runtime for tests: built once per run, called from this process through its header."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from cffi import FFI

from dsa_runtime import Controller, SessionError, Tick, WorldSpec, errors
from dsa_runtime.actions import Discrete, MultiBinary
from dsa_runtime.arguments import check_budget, check_count, check_seed, check_steps
from dsa_runtime.capi.build import build, declarations
from dsa_runtime.capi.embedded import STATUS_OF
from dsa_runtime.capi.structs import Structs
from dsa_runtime.tick import LatencyMs
from dsa_runtime.watchdog import ON_MISS

STATUSES = ("ok", "late", "repeated", "skipped")
STOPPED_BY = {1: "confidence", 2: "budget", 3: "ceiling", 4: "request", 5: "deadline"}
E_HANDLE, E_BUSY = -4, -12
NO_BUDGET_US = 2**64 - 1
ERRORS = {status: kind for kind, status in STATUS_OF.items()} | {E_HANDLE: SessionError, E_BUSY: SessionError}


@functools.cache
def built(flags: tuple[str, ...] = ()) -> Path:
    """The folder of a library compiled with these flags; kept until the tests end."""
    scratch = tempfile.TemporaryDirectory(prefix="dsa-capi-test-")
    _KEPT.append(scratch)
    build(Path(scratch.name), flags=flags)
    return Path(scratch.name)


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


class Library:
    """The functions of the header, as Python exceptions see them."""

    def __init__(self, path: Path) -> None:
        self.ffi: Any = FFI()
        self.ffi.cdef(declarations())
        self.lib: Any = self.ffi.dlopen(str(path))  # RTLD_LOCAL
        self.structs = Structs(self.ffi)

    def call(self, name: str, *arguments: Any) -> int:
        """The status of a call that is not an error."""
        status: int = getattr(self.lib, f"dsa_{name}")(*arguments)
        if status < 0:
            raise ERRORS.get(status, errors.DsaError)(self.ffi.string(self.lib.dsa_last_error()).decode())
        return status

    def struct(self, name: str, **fields: Any) -> Any:
        """A struct with its defaults, and these fields."""
        found = self.ffi.new(f"dsa_{name} *")
        self.call(f"{name}_init", found, self.ffi.sizeof(f"dsa_{name}"))
        for field, value in fields.items():
            setattr(found, field, value)
        return found

    def controller(self, controller: Controller) -> Any:
        given = self.struct("controller")
        self.structs.fill_controller(given, controller)
        return given


class CWorld:
    """A world behind the header."""

    def __init__(self, library: Library, package: Path, spec: WorldSpec) -> None:
        self._library, self.spec = library, spec
        ffi = library.ffi
        self._runtime, self._world = ffi.new("dsa_runtime **"), ffi.new("dsa_world **")
        library.call("runtime_open", ffi.NULL, self._runtime)
        path = ffi.new("char[]", str(package).encode())
        library.call("world_open", self._runtime[0], library.struct("world_config", world=path, threads=1), self._world)

    def session(
        self,
        seed: int = 0,
        *,
        threshold: float | None = None,
        max_steps: int | None = None,
        controller: Controller | None = None,
        on_miss: str = "best_effort",
        history: int = 0,
        prompt: str | np.ndarray | None = None,
    ) -> CSession:
        """As `World.session`; embeddings are set when it is open."""
        controller = controller or Controller()
        changes = {"threshold": threshold, "max_steps": max_steps}
        controller = dataclasses.replace(controller, **{name: v for name, v in changes.items() if v is not None})
        session = self._library.ffi.new("dsa_session **")
        kept = self._library.controller(controller)
        name = self._library.ffi.new("char[]", prompt.encode()) if isinstance(prompt, str) else self._library.ffi.NULL
        config = self._library.struct(
            "session_config",
            seed=check_seed(seed),
            on_miss=ON_MISS.index(on_miss) if on_miss in ON_MISS else -1,
            history=check_count("history", history, 0, 1 << 20),
            controller=kept,
            prompt=name,
        )
        self._library.call("session_open", self._world[0], config, session)
        opened = CSession(self._library, self.spec, session[0])
        try:
            if isinstance(prompt, np.ndarray):
                opened.set_prompt(prompt)
        except BaseException:
            opened.close()
            raise
        return opened

    def close(self) -> None:
        self._library.call("runtime_close", self._runtime[0])


class CSession:
    """A session behind the header, with the interface of `Session`."""

    def __init__(self, library: Library, spec: WorldSpec, handle: Any) -> None:
        self._library, self._handle, self.spec = library, handle, spec
        self._ended = False

    @property
    def tick(self) -> int:
        return int(self._where.tick)

    @property
    def seed(self) -> int:
        return int(self._where.seed)

    @property
    def on_miss(self) -> str:
        return ON_MISS[self._where.on_miss]

    @property
    def controller(self) -> Controller:
        given = self._library.struct("controller")
        self._call("controller", given)
        return self._library.structs.controller(given)

    @controller.setter
    def controller(self, controller: Controller) -> None:
        self._call("configure", self._library.controller(controller))

    def step(self, action: Any, budget_ms: float | None = None, *, steps: int | None = None) -> Tick:
        space = self.spec.action_space
        valid = space.validate(action)
        dtype = np.int32 if isinstance(space, Discrete) else np.uint8 if isinstance(space, MultiBinary) else np.float32
        raw = np.asarray(valid, dtype).tobytes()
        if budget_ms is None:
            budget_us = 0
        else:
            budget_ms = check_budget(budget_ms)
            budget_us = NO_BUDGET_US if budget_ms == math.inf else max(round(budget_ms * 1000), 1)
        frames, place = self._place(self.spec.frame.tick_shape)
        tick = self._library.struct("tick")
        if steps is None:
            status = self._call("step", raw, len(raw), budget_us, place, frames.nbytes, tick)
        else:
            steps = check_steps(steps, self.spec.schedule.steps)
            status = self._call("step_exactly", raw, len(raw), steps, budget_us, place, frames.nbytes, tick)
        assert tick.status == status and tick.call_us >= tick.total_us
        endless = tick.budget_us == NO_BUDGET_US
        return Tick(
            pixels=frames[-1],
            frames=frames,
            tick=tick.tick,
            frame_tick=tick.frame_tick,
            steps=tick.steps,
            confidence=tick.confidence,
            threshold=None if tick.threshold < 0 else tick.threshold,
            stopped_by=STOPPED_BY[tick.stopped_by],  # type: ignore[arg-type]
            budget_ms=math.inf if endless else tick.budget_us / 1000,
            credit_ms=tick.credit_us / 1000,
            slack_ms=math.inf if endless else tick.slack_us / 1000,
            status=STATUSES[status],  # type: ignore[arg-type]
            latency_ms=LatencyMs(
                wait=tick.wait_us / 1000,
                denoise=tuple(tick.denoise_us[step] / 1000 for step in range(tick.steps)),
                abandoned=tick.abandoned_us / 1000,
                decode=tick.decode_us / 1000,
                sdk=tick.sdk_us / 1000,
                total=tick.total_us / 1000,
            ),
        )

    def cancel(self) -> bool:
        cancelled = self._library.ffi.new("int32_t *")
        with suppress(SessionError):  # closed
            self._call("cancel", cancelled)
        return bool(cancelled[0])

    def reset(self, seed: int) -> np.ndarray:
        return self._moved("reset", check_seed(seed))

    def rewind(self, ticks: int) -> np.ndarray:
        return self._moved("rewind", check_count("ticks", operator.index(ticks), 0, 1 << 31))

    def restore(self, snapshot: bytes) -> np.ndarray:
        return self._moved("restore", snapshot, len(snapshot))

    def snapshot(self) -> bytes:
        ffi = self._library.ffi
        size = ffi.new("size_t *")
        self._call("snapshot", ffi.NULL, 0, size)
        buffer = ffi.new("uint8_t[]", size[0])
        self._call("snapshot", buffer, size[0], size)
        return bytes(ffi.buffer(buffer, size[0]))

    def set_prompt(self, prompt: str | np.ndarray) -> None:
        if isinstance(prompt, str):
            self._call("set_prompt", prompt.encode())
        else:
            rows = np.ascontiguousarray(prompt, np.float32)
            self._call("set_text", self._library.ffi.from_buffer("float[]", rows), len(rows))

    def fork(self, n: int = 1) -> list[CSession]:
        n = check_count("n", n, 1, 1 << 16)
        forks = self._library.ffi.new("dsa_session *[]", n)
        self._call("fork", n, forks)
        return [CSession(self._library, self.spec, fork) for fork in forks]

    def close(self) -> None:
        if not self._ended:
            self._ended = True
            self._call("close")

    def __enter__(self) -> CSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _where(self) -> Any:
        state = self._library.struct("session_state")
        self._call("where", state)
        return state

    def _call(self, name: str, *arguments: Any) -> int:
        return self._library.call(f"session_{name}", self._handle, *arguments)

    def _moved(self, name: str, *arguments: Any) -> np.ndarray:
        pixels, place = self._place(self.spec.frame.shape)
        self._call(name, *arguments, place, pixels.nbytes)
        return pixels

    def _place(self, shape: tuple[int, ...]) -> tuple[np.ndarray, Any]:
        pixels = np.zeros(shape, np.uint8)
        return pixels, self._library.ffi.from_buffer("uint8_t[]", pixels, require_writable=True)
