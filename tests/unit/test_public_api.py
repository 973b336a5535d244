"""The public names, and what importing the SDK does and does not do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dsa_runtime

PUBLIC = {
    "load_world", "World", "bundled_worlds", "WorldSpec", "Discrete", "MultiBinary", "Box", "Session",
    "Controller", "Quality", "RiskBound", "Tick", "Recording", "Diagnosis", "Pacer", "DsaError", "WorldError",
    "ActionError", "BudgetError", "QualityError", "SessionError", "EngineError", "DeadlineError", "CancelledError",
    "PromptError",
    "SnapshotError", "RecordingError", "DiagnosisError", "ServingError", "ServerError",
    "BusyError", "ServerGoneError", "connect", "Connection", "RemoteSession", "Spectator", "__version__",
}  # fmt: skip

PLAY_WITHOUT_TRAINING_LIBRARIES = """
import sys
for name in ("torch", "onnx", "onnxscript", "exporters"):
    sys.modules[name] = None  # importing it now raises
import dsa_runtime
with dsa_runtime.load_world(sys.argv[1], threads=1) as world, world.session(3) as session:
    assert session.step(1).pixels.shape == (8, 8, 3)
import os
assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
"""


def run(code: str, *arguments: str) -> str:
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_public_names_are_the_documented_ones() -> None:
    assert set(dsa_runtime.__all__) == PUBLIC
    assert set(dsa_runtime.__all__) <= set(dir(dsa_runtime))
    for name in dsa_runtime.__all__:
        assert getattr(dsa_runtime, name) is not None


def test_public_objects_are_documented() -> None:
    for name in PUBLIC - {"__version__"}:
        assert getattr(dsa_runtime, name).__doc__, name


def test_unknown_names_are_attribute_errors() -> None:
    assert not hasattr(dsa_runtime, "load_wrold")


def test_import_loads_nothing_heavy() -> None:
    loaded = run("import dsa_runtime, sys; print(*sys.modules)").split()
    assert not {"numpy", "onnxruntime", "dsa_runtime.engine"} & set(loaded)


def test_playing_needs_neither_torch_nor_onnx(tiny_package: Path) -> None:
    run(PLAY_WITHOUT_TRAINING_LIBRARIES, str(tiny_package))


def test_telemetry_is_refused_before_onnxruntime_starts(tiny_package: Path, tmp_path: Path) -> None:
    """With a fresh home and a fresh environment nothing may be left behind by its uploader."""
    code = (
        "import os, sys; os.environ.pop('ORT_DISABLE_TELEMETRY', None); os.environ['HOME'] = sys.argv[2]\n"
        "import dsa_runtime\nwith dsa_runtime.load_world(sys.argv[1], threads=1) as w: w.session(0).step(0)"
    )
    run(code, str(tiny_package), str(tmp_path))
    assert not list(tmp_path.rglob("*"))
