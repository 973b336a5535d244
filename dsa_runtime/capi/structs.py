"""The structs of dsa_runtime.h, from and to the SDK's objects. Microseconds there, milliseconds here."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..actions import ActionSpace, Box, Discrete, MultiBinary
from ..controller import POLICIES, Controller
from ..errors import BudgetError, SessionError, WorldError

if TYPE_CHECKING:
    from ..session import Session
    from ..world import World

UNSET = -1.0
FORMS = ("auto", "op", "plain", "half")
_US = 1000.0  # in a millisecond


class Structs:
    """Reads and fills the structs of one library; what it reads is valid, sizes have been checked."""

    def __init__(self, ffi: Any) -> None:
        self._ffi = ffi

    def world_options(self, config: Any) -> dict[str, Any]:
        """The arguments of `load_world`."""
        from ..quality import Quality

        options: dict[str, Any] = {
            "path_or_name": self._text(config.world),
            "threads": config.threads or None,
            "form": _chosen("form", FORMS, config.form, WorldError),
        }
        if _is_set(config.quality_alpha):
            options["quality"] = Quality(config.quality_alpha, _optional(config.quality_delta))
        return options

    def session_options(self, config: Any) -> dict[str, Any]:
        """The arguments of `World.session`, without its controller."""
        from ..watchdog import ON_MISS

        return {
            "seed": config.seed,
            "on_miss": _chosen("on_miss", ON_MISS, config.on_miss, SessionError),
            "history": config.history,
            "threads": config.threads or None,
            "prompt": self.words(config.prompt) if config.prompt else None,
        }

    def words(self, text: Any) -> str:
        """A name that is not the system's; what is no UTF-8 in it makes it another name."""
        return bytes(self._ffi.string(text)).decode(errors="replace")

    def embeddings(self, values: Any, tokens: int, width: int) -> Any:
        """A view, `float32[tokens, width]`; only as much of it is read as the session finds good."""
        import numpy as np

        count = tokens * width
        flat = np.frombuffer(self._ffi.buffer(values, 4 * count), np.float32) if count else np.empty(0, np.float32)
        return flat.reshape(tokens, width)

    def controller(self, given: Any) -> Controller:
        """A controller of the SDK."""
        return Controller(
            policy=_chosen("policy", POLICIES, given.policy, BudgetError),
            threshold=_optional(given.threshold),
            min_steps=given.min_steps,
            max_steps=given.max_steps or None,
            target_steps=_optional(given.target_steps),
            target_load=_optional(given.target_load),
            settle_ticks=given.settle_ticks,
            credit_ms=given.credit_us / _US,
            quantile=given.quantile,
            step_quantile=given.step_quantile,
            guard_ms=given.guard_us / _US,
            rescue=bool(given.rescue),
        )

    def fill_controller(self, given: Any, controller: Controller) -> None:
        """The way back."""
        given.policy = POLICIES.index(controller.policy)
        given.threshold = _or_unset(controller.threshold)
        given.target_steps = _or_unset(controller.target_steps)
        given.target_load = _or_unset(controller.target_load)
        given.min_steps = controller.min_steps
        given.max_steps = controller.max_steps or 0
        given.settle_ticks = controller.settle_ticks
        given.rescue = controller.rescue
        given.credit_us = controller.credit_ms * _US
        given.guard_us = controller.guard_ms * _US
        given.quantile = controller.quantile
        given.step_quantile = controller.step_quantile

    def fill_spec(self, given: Any, world: World) -> list[Any]:
        """Describe a world. Returns what the struct points to, to be kept as long as that."""
        spec, space, kept = world.spec, world.spec.action_space, []

        def keep(value: Any) -> Any:
            kept.append(value)
            return value

        def text(value: str) -> Any:
            return keep(self._ffi.new("char[]", value.encode()))

        def texts(values: tuple[str, ...]) -> Any:
            return keep(self._ffi.new("const char *[]", [text(value) for value in values]))

        frame, calibration = spec.frame, spec.calibration
        given.height, given.width, given.channels = frame.height, frame.width, frame.channels
        given.frame_bytes = frame.height * frame.width * frame.channels
        given.frames_per_tick, given.tick_bytes = frame.frames_per_tick, frame.frames_per_tick * given.frame_bytes
        given.fps, given.period_us = frame.fps, round(frame.period_ms * _US)
        given.aspect_width, given.aspect_height = frame.display_aspect
        given.action_type = [Discrete, MultiBinary, Box].index(type(space)) + 1
        given.action_count = space.width
        given.action_bytes = {Discrete: 4, MultiBinary: space.width, Box: 4 * space.width}[type(space)]
        given.action_names = texts(space.names)
        if isinstance(space, Box):
            given.action_units = texts(space.units)
            given.action_low = keep(self._ffi.new("float[]", space.low))
            given.action_high = keep(self._ffi.new("float[]", space.high))
        given.schedule_steps = spec.schedule.steps
        given.schedule_levels = keep(self._ffi.new("double[]", spec.schedule.levels))
        given.contexts = world.contexts
        given.default_threshold = calibration.default_threshold
        given.delta, given.delta_unit = calibration.delta, text(calibration.delta_unit)
        given.name, given.version, given.licence = text(spec.name), text(spec.version), text(spec.licence)
        given.description, given.fingerprint = text(spec.description), text(spec.fingerprint)
        if spec.text.width:
            given.text_width, given.text_tokens = spec.text.width, spec.text.tokens
            given.prompts, given.prompt_count = texts(spec.text.prompts), len(spec.text.prompts)
        return kept

    def fill_state(self, given: Any, session: Session) -> None:
        """Where a session is."""
        from ..watchdog import ON_MISS

        given.tick, given.seed, given.on_miss = session.tick, session.seed, ON_MISS.index(session.on_miss)

    def fill_stepper(self, given: Any, session: Session, report: Callable[[BaseException], Any]) -> list[Any]:
        """What a step needs. Returns what the struct points to, to be kept as long as that."""
        import numpy as np

        kept: list[Any] = [session.step, np.ndarray, report]
        given.step, given.frames, given.report = (self._ffi.cast("void *", id(each)) for each in kept)
        space = session.spec.action_space
        if not isinstance(space, Discrete):
            action = np.zeros(space.width, np.uint8 if isinstance(space, MultiBinary) else np.float32)
            given.action, given.values = (self._ffi.cast("void *", each) for each in (id(action), action.ctypes.data))
            kept.append(action)
        return kept

    def some_action(self, space: ActionSpace) -> Any:
        """An action that the space allows."""
        if isinstance(space, Discrete):
            return 0
        return list(space.low) if isinstance(space, Box) else [0] * space.width

    def _text(self, pointer: Any) -> str | None:
        return os.fsdecode(self._ffi.string(pointer)) if pointer else None


def _chosen(field: str, names: tuple[str, ...], value: int, error: type[Exception]) -> Any:
    if not 0 <= value < len(names):
        raise error(f"{field}: must lie in 0..{len(names) - 1}, got {value}")
    return names[value]


def _is_set(value: float) -> bool:
    return not value < 0  # so that NaN counts as set, and is refused


def _optional(value: float) -> float | None:
    return value if _is_set(value) else None


def _or_unset(value: float | None) -> float:
    return UNSET if value is None else value
