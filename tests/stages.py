"""Hold, fail or count the stages of a session's ticks from a test. What is not touched runs for real."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from dsa_runtime import Session
from dsa_runtime.bindings import Interrupted
from dsa_runtime.workspace import Workspace

WAIT_S = 30.0  # for what must happen; a test that waits this long has failed


def settle(session: Session) -> None:
    """Wait until the newest frame of a session is in its window."""
    with session._settled():
        pass


def patch_stage(monkeypatch: pytest.MonkeyPatch, stage: str, action: Callable[[Workspace, int], object]) -> None:
    """Call `action(workspace, n)` before the n-th run (from 1) of "denoise", "decode" or "commit", in any session."""
    real: Callable[..., Any] = getattr(Workspace, stage)
    count = 0

    def patched(workspace: Workspace, *arguments: Any) -> Any:
        nonlocal count
        count += 1
        action(workspace, count)
        return real(workspace, *arguments)

    monkeypatch.setattr(Workspace, stage, patched)


class Gate:
    """Holds a stage from its `first` run on, until the gate is opened or the run is interrupted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stage: str, first: int = 1) -> None:
        self.inside, self.open = threading.Event(), threading.Event()

        def hold(workspace: Workspace, count: int) -> None:
            if count < first:
                return
            self.inside.set()
            options = {"denoise": workspace._options, "decode": workspace._decoder.options}.get(stage)
            for _ in range(int(WAIT_S * 5000)):
                if self.open.wait(0.0002):
                    return
                if options is not None and options.terminate:
                    raise Interrupted(stage)  # as ONNX Runtime does, between two nodes
            raise AssertionError("the gate was never opened")

        patch_stage(monkeypatch, stage, hold)
