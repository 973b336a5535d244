"""Lives: a server that ends and begins again at the same address."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dsa_runtime import World
from dsa_runtime.serving.server import Server
from tests.serving.serve import serve


class Lives:
    """Use it in a `with` statement, which begins the first life and ends the last one."""

    def __init__(self, world: World, folder: Path, **settings: Any) -> None:
        self._world, self._folder = world, folder
        self._settings = {"batched": False, "load_most": float("inf"), **settings}
        self._stack = ExitStack()
        self.server: Server
        """The one that runs, or ran last."""

    def begin(self, **settings: Any) -> None:
        """Serve; `settings` that differ from those of the other lives."""
        self.server = self._stack.enter_context(serve(self._world, self._folder, **{**self._settings, **settings}))

    def end(self) -> None:
        """Every session is gone."""
        self._stack.close()

    def restart(self) -> None:
        self.end()
        self.begin()

    def __enter__(self) -> Lives:
        self.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
