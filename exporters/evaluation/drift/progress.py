"""Progress of a long run on disk, so that one that was stopped goes on where it was."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_SESSION = "session_"


@dataclass(frozen=True)
class Progress:
    """numbers: plain values; arrays: what was measured so far; snapshots: one per session."""

    numbers: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]
    snapshots: Sequence[bytes]

    def save(self, path: Path, run: Mapping[str, Any]) -> None:
        """Write in one step. `run` names the run that this belongs to, as JSON values."""
        path.parent.mkdir(parents=True, exist_ok=True)
        about = np.array(json.dumps({"run": run, "numbers": dict(self.numbers)}))
        sessions = {f"{_SESSION}{i}": np.frombuffer(data, np.uint8) for i, data in enumerate(self.snapshots)}
        partial = path.with_name(path.name + ".partial")
        with open(partial, "wb") as stream:
            np.savez(stream, about=about, **sessions, **self.arrays)  # type: ignore[arg-type]
        os.replace(partial, path)

    @staticmethod
    def load(path: Path, run: Mapping[str, Any]) -> Progress | None:
        """What `save` wrote, or None where there is nothing. Raises ValueError for another run's or a broken file."""
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            about = json.loads(str(arrays.pop("about")))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: not the progress of a drift run ({error}); delete it to start anew") from None
        if about["run"] != json.loads(json.dumps(run)):
            raise ValueError(f"{path}: the progress of another drift run or world; delete it to start anew")
        count = sum(name.startswith(_SESSION) for name in arrays)
        snapshots = [arrays.pop(f"{_SESSION}{i}").tobytes() for i in range(count)]
        return Progress(about["numbers"], arrays, snapshots)
