"""ServeProcess: `dsa serve` as a process of its own, for tests that kill it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

PATIENCE_S = 60.0


class ServeProcess:
    """Started by `with`, which returns when it is ready and kills it at the end if it still runs."""

    def __init__(self, *arguments: object, prefix: tuple[str, ...] = (), env: dict[str, str] | None = None) -> None:
        """`arguments` of `dsa serve`; `prefix` of the whole command, such as `ip netns exec NAME`."""
        self._command = [*prefix, sys.executable, "-m", "dsa_runtime.cli", "serve", "--json", *map(str, arguments)]
        self._env = {**os.environ, "ORT_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1", **(env or {})}
        self.ready: dict[str, Any] = {}
        """What it printed when it was ready."""

    def __enter__(self) -> ServeProcess:
        self._err: IO[bytes] = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            self._command, env=self._env, stdout=subprocess.PIPE, stderr=self._err, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait(PATIENCE_S)
            raise RuntimeError(f"dsa serve ended with status {status}: {self.errors()}")
        self.ready = json.loads(line)
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._err.close()

    @property
    def address(self) -> str:
        return str(self.ready["address"])

    def errors(self) -> str:
        """What it has written to stderr so far."""
        self._err.seek(0)
        return self._err.read().decode()

    def terminate(self) -> None:
        """SIGTERM; it drains."""
        self.process.terminate()

    def kill(self) -> None:
        """SIGKILL, also for one that is stopped."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE_S)

    def end(self) -> tuple[int, dict[str, Any]]:
        """Wait until it ends by itself: exit status, and the document that it printed last."""
        out, _ = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, json.loads(out) if out.strip() else {}


def keys_at(folder: Path) -> dict[str, str]:
    """The environment of a user whose keys are in this folder."""
    return {"XDG_CONFIG_HOME": str(folder)}
