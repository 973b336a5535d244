"""A server in a thread of the test process."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dsa_runtime import World
from dsa_runtime.serving.config import ServerConfig
from dsa_runtime.serving.observer import Observer
from dsa_runtime.serving.server import Server
from tests.serving.peer import WAIT_MS


@contextmanager
def serve(
    worlds: World | Mapping[str, World],
    folder: Path,
    *,
    observer: Observer | None = None,
    expect_end: bool = False,
    **settings: Any,
) -> Iterator[Server]:
    """A running server, on an ipc socket in a private folder unless `bind` says otherwise. It is stopped at the end,
    or waited for, if the test has told it to end."""
    if isinstance(worlds, World):
        worlds = {worlds.spec.name: worlds}
    defaults = {"bind": f"ipc://{private(folder)}/dsa", "ring_folder": private(folder / "rings")}
    server = Server(worlds, ServerConfig(**{**defaults, **settings}), observer)
    server.bind()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            server.run()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="test-server", daemon=True)
    thread.start()
    try:
        yield server
    finally:
        if not expect_end:
            server.stop()
        thread.join(WAIT_MS / 1000)
        assert not thread.is_alive(), "the server does not end"
        assert not failures, failures


def private(folder: Path) -> Path:
    """The folder, open to nobody else."""
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    return folder
