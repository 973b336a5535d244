"""Held: keeps batched denoising steps from ending until a test lets them."""

from __future__ import annotations

import threading

import pytest

from dsa_runtime.batch import Batch
from tests.serving.peer import WAIT_MS


class Held:
    """From when it is made until `let_go`, every round of denoising steps waits. The batcher of a world runs some when
    its first batched session is opened, so open one before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._inside, self._open = threading.Event(), threading.Event()
        real = Batch.denoise

        def denoise(batch: Batch, n: int) -> int:
            self._inside.set()
            assert self._open.wait(WAIT_MS / 1000), "nobody has let it go"
            return real(batch, n)

        monkeypatch.setattr(Batch, "denoise", denoise)

    def wait(self) -> None:
        """Until a step is held."""
        assert self._inside.wait(WAIT_MS / 1000), "no step began"

    def let_go(self) -> None:
        """All of them, from now on."""
        self._open.set()
