"""World: a loaded world package, shared by all its sessions."""

from __future__ import annotations

import dataclasses
import os
import threading
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from .arguments import check_count, check_seed, check_threads
from .calibration import RiskBound
from .controller import Controller
from .device import Device
from .engine import Engine
from .errors import SessionError
from .form import Form, choose_form
from .frame_cache import FrameCache
from .latency import LatencyModel
from .package import Package, open_package
from .prompt import load_prompts
from .quality import Quality, with_default
from .recording import Recording
from .runner import Lease
from .runtime import Runtime
from .seeds import load_seeds
from .session import Session
from .spec import PROMPTS_FILE, SEEDS_FILE, WorldSpec
from .watchdog import ON_MISS, OnMiss

if TYPE_CHECKING:
    from .doctor import Diagnosis


def load_world(
    path_or_name: str | os.PathLike[str] | None = None,
    *,
    threads: int | None = None,
    form: str = "auto",
    quality: Quality | float | None = None,
    device: str = "cpu",
) -> World:
    """Load and verify a world.

    path_or_name   a package folder, a `.dsaworld` archive, or the name of a bundled world (None: the default)
    threads        threads per graph; None for one per core that this process may use
    form           `op` for the compiled attention operators, `plain` for standard ONNX operators, which are slower
                   and run everywhere; `auto` takes the operators where they were built. Both draw the same frames up
                   to rounding; `World.form` and `dsa info` say which it is
    quality        at most this share of frames further than the world's delta from the full schedule's: sets the
                   default threshold. `Quality` says what is promised, and what gives the promise up; `World.quality`
                   and `dsa info` say what it was measured to be
    device         `cpu`, `cuda` or `cuda:N`: where graphs run and keys and values lie. CUDA needs onnxruntime-gpu in
                   the place of onnxruntime

    Raises `WorldError`, naming the file, before anything of a damaged or unsafe package is run, `EngineError` for a
    form or device that is not possible here, and `QualityError` for a quality that the package has no bound for.
    """
    asked = None if quality is None else Quality.of(quality)
    package = open_package(path_or_name)
    try:
        return World(package, threads, form, asked, device)
    except BaseException:
        package.close()
        raise


class World:
    """A trained world: its spec, its graphs and the pool of cached frames. Constant and thread-safe."""

    def __init__(
        self,
        package: Package,
        threads: int | None = None,
        form: str = "auto",
        quality: Quality | None = None,
        device: str = "cpu",
    ) -> None:
        """For `load_world`. Takes over the package."""
        self._bound = None if quality is None else quality.bound(package.spec)
        if self._bound is not None:
            package = dataclasses.replace(package, spec=with_default(package.spec, self._bound))
        self.spec: WorldSpec = package.spec
        self._package = package
        self._threads = check_threads(threads)
        self._seeds = load_seeds(package.path(SEEDS_FILE), package.spec)
        takes_text = bool(package.spec.text.width)
        self._prompts = load_prompts(package.path(PROMPTS_FILE), package.spec) if takes_text else {}
        # A prompt is swapped by committing the window's ticks again, so these are kept where there can be another one.
        kept = (package.spec.latent.shape, (package.spec.action_space.width,)) if takes_text else ()
        self._device = Device.of(device)
        self._choice = choose_form(package.spec, form, self._device)
        self._cache = FrameCache(
            package.spec.cache, source_shapes=kept, device=self._device, dtype=self._choice.cache_dtype
        )
        self._runtimes: dict[int | None, Runtime] = {}
        self._loading = threading.Lock()
        self._runtime(self._threads)

    def session(
        self,
        seed: int = 0,
        *,
        threshold: float | None = None,
        max_steps: int | None = None,
        controller: Controller | None = None,
        on_miss: OnMiss = "best_effort",
        history: int = 0,
        threads: int | None = None,
        diagnosis: Diagnosis | None = None,
        record: bool = False,
        batched: bool = False,
        prompt: str | np.ndarray | None = None,
    ) -> Session:
        """Open a session that starts from `seed`.

        threshold    confidence in [0, 1] that is good enough; None for the controller's or world's default, which is
                     that of the quality the world was loaded with
        max_steps    ceiling of denoising steps per tick; None for the controller's or the schedule's
        controller   how steps are allocated; `threshold` and `max_steps` override its own
        on_miss      what a tick does whose first denoising step is not ready in time. `best_effort`: it waits for
                     it, and `status` is `late`. `repeat`: it returns on time, with the newest finished frame and
                     `status` `repeated`, and goes on in the background; its frame is the next tick's past.
                     `raise`: it is undone and raises `DeadlineError`, on time
        history      ticks that `Session.rewind` can undo; each keeps one slot of the frame cache, and what a streaming
                     decoder remembered then
        threads      threads per graph; None for the world's; where that has none either, one per core, and a single one
                     for batched sessions, which use the cores by as many batches. Sessions with the same number share
                     graphs
        diagnosis    what `dsa doctor` found out about this machine: costs, so that the first ticks are judged as
                     well as the later ones, and its advice on threads and guard where none is given
        record       keep every decision in `session.recording`, for replay. Grows with every tick
        batched      make its ticks together with those of the world's other batched sessions: for servers and for
                     vector environments, where many sessions step at the same time, each on a thread of its own. With
                     the same steps the frames are the same; a tick takes as long as its company, and `latency_ms` says
                     so. A step that is running when the deadline comes is finished, not abandoned, so further steps are
                     begun more cautiously. Not every world has such sessions: see `batchable`
        prompt       the text to begin with, as in `Session.set_prompt`; None for the world's first
        """
        seed, history = check_seed(seed), check_count("history", history, 0, 1 << 20)
        if on_miss not in ON_MISS:
            raise SessionError(f"on_miss: expected one of {', '.join(ON_MISS)}, got {on_miss!r}")
        if batched and not self.batchable:
            raise SessionError(f"batched: the world {self.spec.name!r} cannot make ticks together; leave it out")
        latency = LatencyModel()
        if diagnosis is not None:
            diagnosis.check(self.spec, self.form)
            latency.prime(diagnosis.costs)
            if threads is None and self._threads is None:
                threads = diagnosis.threads
            controller = controller or Controller(guard_ms=diagnosis.guard_ms)
        controller = controller or Controller()
        if self._bound is not None and controller.follows_default:
            # Said outright, so that a snapshot keeps it wherever it is restored.
            controller = dataclasses.replace(controller, threshold=self._bound.threshold)
        if threshold is not None:
            controller = dataclasses.replace(controller, threshold=threshold)
        if max_steps is not None:
            controller = dataclasses.replace(controller, max_steps=max_steps)
        threads = self._threads if threads is None else check_threads(threads)
        runtime = self._runtime(1 if threads is None and batched else threads)
        seat = runtime.seat() if batched else None
        # A batched session runs none of the graphs alone, so there is nothing to warm up.
        prepare = runtime.open if seat is None else runtime.context
        found = runtime.prompt(prompt)
        parts = Lease(runtime.runners).call(lambda runner: prepare(runner, latency, seed, history, found))
        window, state, picture = parts
        session = Session(runtime, window, state, controller, latency, on_miss, history, picture, seat)
        if record:
            session._record(Recording.of(self.spec, self.form, seed))
        return session

    @property
    def batchable(self) -> bool:
        """Whether sessions may be `batched`: not in worlds with a streaming decoder, or that take text."""
        return not (self.spec.decoder.state or self.spec.text.width)

    @property
    def form(self) -> Form:
        """In which form the generator runs: `op`, `plain` or `half`."""
        return self._choice.form

    @property
    def form_reason(self) -> str:
        """Why it is that form, in words."""
        return self._choice.reason

    @property
    def device(self) -> str:
        """Where it runs: `cpu`, `cuda` or `cuda:N`."""
        return str(self._device)

    @property
    def quality(self) -> RiskBound | None:
        """The promise in force and how it was measured, or None for a world that was loaded without `quality`."""
        return self._bound

    @property
    def contexts(self) -> int:
        """Start contexts in the package; seed s starts from context `s % contexts`."""
        return self._seeds.count

    @property
    def slots(self) -> int:
        """Slots of the frame cache that are in use."""
        return self._cache.used

    @property
    def rounds(self) -> tuple[int, int]:
        """Engine calls that made a denoising step for batched sessions, and the sessions that had one in them."""
        counts = [runtime.rounds for runtime in list(self._runtimes.values())]
        return sum(rounds for rounds, _ in counts), sum(rows for _, rows in counts)

    def close(self) -> None:
        """End the worker threads and remove what loading unpacked. Idempotent; close the sessions first."""
        for runtime in self._runtimes.values():
            runtime.close()
        self._package.close()

    def __enter__(self) -> World:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _runtime(self, threads: int | None) -> Runtime:
        with self._loading:
            if threads not in self._runtimes:
                self._runtimes[threads] = Runtime(
                    Engine(self._package, threads, self._choice, self._device), self._cache, self._seeds, self._prompts
                )
            return self._runtimes[threads]
