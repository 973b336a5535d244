"""World: a loaded world package, shared by all its sessions."""

from __future__ import annotations

import dataclasses
import os
import threading
from types import TracebackType

from .arguments import check_threads
from .controller import Controller
from .engine import Engine
from .frame_cache import FrameCache
from .package import Package, open_package
from .seeds import load_seeds
from .session import Session
from .spec import SEEDS_FILE, WorldSpec


def load_world(path_or_name: str | os.PathLike[str] | None = None, *, threads: int | None = None) -> World:
    """Load and verify a world.

    path_or_name   a package folder, a `.dsaworld` archive, or the name of a bundled world (None: the default)
    threads        threads per graph; None for one per core that this process may use

    Raises `WorldError`, naming the file, before anything of a damaged or unsafe package is run.
    """
    package = open_package(path_or_name)
    try:
        return World(package, threads)
    except BaseException:
        package.close()
        raise


class World:
    """A trained world: its spec, its graphs and the pool of cached frames. Constant and thread-safe."""

    def __init__(self, package: Package, threads: int | None = None) -> None:
        """For `load_world`. Takes over the package."""
        self.spec: WorldSpec = package.spec
        self._package = package
        self._threads = check_threads(threads)
        self._seeds = load_seeds(package.path(SEEDS_FILE), package.spec)
        self._cache = FrameCache(package.spec.cache)
        self._engines: dict[int | None, Engine] = {}
        self._loading = threading.Lock()
        self._engine(self._threads)

    def session(
        self,
        seed: int = 0,
        *,
        threshold: float | None = None,
        max_steps: int | None = None,
        controller: Controller | None = None,
        threads: int | None = None,
        record: bool = False,
    ) -> Session:
        """Open a session that starts from `seed`.

        threshold    confidence in [0, 1] that is good enough; None for the controller's or world's default
        max_steps    ceiling of denoising steps per tick; None for the controller's or the schedule's
        controller   how steps are allocated; `threshold` and `max_steps` override its own
        threads      threads per graph; None for the world's. Sessions with the same number share graphs
        record       keep every decision in `session.recording`, for replay. Grows with every tick
        """
        controller = controller or Controller()
        if threshold is not None:
            controller = dataclasses.replace(controller, threshold=threshold)
        if max_steps is not None:
            controller = dataclasses.replace(controller, max_steps=max_steps)
        engine = self._engine(self._threads if threads is None else check_threads(threads))
        return Session(engine, self._cache, self._seeds, seed, controller, record)

    @property
    def contexts(self) -> int:
        """Start contexts in the package; seed s starts from context `s % contexts`."""
        return self._seeds.count

    def close(self) -> None:
        """Remove what loading unpacked. Idempotent; close the sessions first."""
        self._package.close()

    def __enter__(self) -> World:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _engine(self, threads: int | None) -> Engine:
        with self._loading:
            if threads not in self._engines:
                self._engines[threads] = Engine(self._package, threads)
            return self._engines[threads]
