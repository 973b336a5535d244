"""DSA Runtime: play neural worlds under a time budget per tick.

    import dsa_runtime

    world = dsa_runtime.load_world()                  # the bundled world, a folder or a .dsaworld archive
    with world.session(seed=7) as session:
        tick = session.step(3, budget_ms=33)          # one action in, one frame out, on time
        tick.pixels, tick.steps, tick.confidence      # uint8[H, W, 3], and what it took

## Architecture

Arrows point one way, and each file holds one noun:

    cli -> serving -> world -> session -> engine -> ops

    package, spec    a world on disk, verified before anything in it runs, and the contract it states
    calibration      the part of that contract that gives the confidence its meaning
    quality          a promise about frames that is asked for at loading, and the threshold that keeps it
    world            a loaded world: constant, thread-safe, shared by its sessions
    session, state   one running world. A tick is all or nothing: validate the action, denoise until the
                     controller says stop, decode, return; the commit of the frame comes after the return. The
                     caller waits with a timeout and is its own watchdog
    job, reply       one tick between the caller that waits and the worker that makes it, and what it came to
    watchdog         how the caller waits, and what happens when the deadline comes first
    runner, runtime  worker threads and buffers, lent to sessions for a tick, so that forking is cheap
    batcher          one thread that makes the ticks of many sessions in common rounds; batch, batch_costs are its
                     buffers and what it knows of their cost
    sampler          the denoising loop of one tick, from noise to pixels
    controller       how many denoising steps a frame gets; pure arithmetic over confidence, budget and
                     measured costs
    latency          measured cost per stage, as quantiles
    engine           the graphs in ONNX Runtime, bound to preallocated buffers
    form             compiled operators or plain ONNX ones, chosen when a world is loaded
    frame_cache      keys and values of past frames: one paged pool per world; a session holds slot numbers
    prompt           the text that a session is conditioned on, in worlds that take one
    snapshot         a session's state as portable bytes
    recording, replay  what was asked and decided, and the same frames again from it
    noise            counter-based noise keyed by (seed, tick, step), so that a frame depends on nothing else
    doctor           what this machine can promise, measured
    cost             what a world would cost on a device, on paper
    ops              the custom operators: schema, numpy reference, and the C++ and CUDA library (csrc)
    serving          sessions for other processes and machines; client and remote_session are the other end
    capi             sessions for C, on an embedded Python
    gym, export, viewer  environments, films and tables, and the page in the browser; each needs its extra
    cli, commands    the command line; report draws what it shows

Importing this package loads nothing heavy; numpy and ONNX Runtime come in with the first name that needs
them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .actions import Box as Box
    from .actions import Discrete as Discrete
    from .actions import MultiBinary as MultiBinary
    from .calibration import RiskBound as RiskBound
    from .controller import Controller as Controller
    from .doctor import Diagnosis as Diagnosis
    from .errors import ActionError as ActionError
    from .errors import BudgetError as BudgetError
    from .errors import BusyError as BusyError
    from .errors import CancelledError as CancelledError
    from .errors import DeadlineError as DeadlineError
    from .errors import DiagnosisError as DiagnosisError
    from .errors import DsaError as DsaError
    from .errors import EngineError as EngineError
    from .errors import PromptError as PromptError
    from .errors import QualityError as QualityError
    from .errors import RecordingError as RecordingError
    from .errors import ServerError as ServerError
    from .errors import ServerGoneError as ServerGoneError
    from .errors import ServingError as ServingError
    from .errors import SessionError as SessionError
    from .errors import SnapshotError as SnapshotError
    from .errors import WorldError as WorldError
    from .pacer import Pacer as Pacer
    from .package import bundled_worlds as bundled_worlds
    from .quality import Quality as Quality
    from .recording import Recording as Recording
    from .serving.client import Connection as Connection
    from .serving.client import connect as connect
    from .serving.remote_session import RemoteSession as RemoteSession
    from .serving.spectator import Spectator as Spectator
    from .session import Session as Session
    from .spec import WorldSpec as WorldSpec
    from .tick import Tick as Tick
    from .world import World as World
    from .world import load_world as load_world

__version__ = "0.1.0"

_HOMES = {
    "load_world": "world",
    "World": "world",
    "bundled_worlds": "package",
    "WorldSpec": "spec",
    "Discrete": "actions",
    "MultiBinary": "actions",
    "Box": "actions",
    "Session": "session",
    "connect": "serving.client",
    "Connection": "serving.client",
    "RemoteSession": "serving.remote_session",
    "Spectator": "serving.spectator",
    "Controller": "controller",
    "Quality": "quality",
    "RiskBound": "calibration",
    "Tick": "tick",
    "Recording": "recording",
    "Pacer": "pacer",
    "Diagnosis": "doctor",
    "DsaError": "errors",
    "WorldError": "errors",
    "ActionError": "errors",
    "BudgetError": "errors",
    "PromptError": "errors",
    "QualityError": "errors",
    "SessionError": "errors",
    "EngineError": "errors",
    "DeadlineError": "errors",
    "CancelledError": "errors",
    "SnapshotError": "errors",
    "RecordingError": "errors",
    "DiagnosisError": "errors",
    "ServingError": "errors",
    "ServerError": "errors",
    "BusyError": "errors",
    "ServerGoneError": "errors",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
