"""The arrows between the parts, held by reading every import in the source."""

from __future__ import annotations

import ast
import graphlib
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]

# Lowest first. A module may import from its own layer and from those above it in this list. Every module or
# subpackage of the SDK has its place here; a new one is added where it belongs.
LAYERS = {
    "errors": {"errors"},
    "ops": {"ops"},
    "contract": {
        "strict_json",
        "actions",
        "calibration",
        "spec",
        "quality",
        "arguments",
        "tick",
        "noise",
        "latency",
        "batch_costs",
        "controller",
        "arrays_file",
        "device_array",
        "atomic",
        "prompt",
        "state",
        "recording",
        "collection",
        "pacer",
    },
    "engine": {
        "package",
        "seeds",
        "frame_cache",
        "ort",
        "device",
        "form",
        "bindings",
        "engine",
        "decoder",
        "workspace",
        "batch",
        "snapshot",
    },
    "session": {
        "job",
        "watchdog",
        "reply",
        "sampler",
        "runner",
        "batcher",
        "runtime",
        "session",
        "world",
        "replay",
        "doctor",
    },
    "serving": {"serving", "viewer", "capi", "gym"},
    "report": {"report", "cost"},
    "commands": {"commands", "export"},
    "cli": {"cli"},
}
RANK = {module: rank for rank, modules in enumerate(LAYERS.values()) for module in modules}

# Parts of the SDK that the training side has no business with.
NOT_FOR_EXPORTERS = {"serving", "viewer", "capi", "report", "commands", "export", "gym", "cli"}

# Distributions whose modules are named differently.
MODULES = {"pyzmq": "zmq", "pillow": "PIL", "scikit-learn": "sklearn", "rerun-sdk": "rerun"}

# Parts of the SDK that may need more than the base install, and the extras that bring it.
EXTRAS = {
    "dsa_runtime/export/": ("export", "rerun"),
    "dsa_runtime/gym/": ("gym",),
    "dsa_runtime/viewer/": ("viewer",),
    "dsa_runtime/commands/play.py": ("viewer",),
    "dsa_runtime/commands/completion.py": ("completion",),
}

PLAY_ON_THE_COMMAND_LINE = """
import sys
for name in ("torch", "onnx", "onnxscript", "exporters"):
    sys.modules[name] = None  # importing it now raises
from dsa_runtime import cli
sys.exit(cli.main(sys.argv[1:]))
"""


@dataclass(frozen=True)
class Import:
    """One imported module, by its full dotted name, and where that is written."""

    name: str
    source: str
    where: str
    for_types_only: bool = False

    @property
    def root(self) -> str:
        return self.name.partition(".")[0]

    def part(self, package: str) -> str | None:
        """`frame_cache` of `dsa_runtime.frame_cache`; None outside the package and for the package itself."""
        names = self.name.split(".")
        return names[1] if names[0] == package and len(names) > 1 else None


def imports_of(root: Path, package: str) -> list[Import]:
    """Every import statement in a package, wherever it stands in a file."""
    found = []
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        names = parts[:-1] if parts[-1] == "__init__" else parts
        home = parts[:-1]  # what one leading dot stands for
        tree = ast.parse(path.read_text(encoding="utf-8"))
        typing_only = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            for name in _targets(root, node, home):
                where = f"{path.relative_to(root)}:{getattr(node, 'lineno', 0)}"
                found.append(Import(name, ".".join(names), where, id(node) in typing_only))
    return found


def _targets(root: Path, node: ast.AST, home: tuple[str, ...]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = home[: len(home) - node.level + 1] if node.level else ()
        module = ".".join([*base, *([node.module] if node.module else [])])
        for alias in node.names:  # `from . import spec` names a module, `from .spec import WorldSpec` does not
            inner = root.joinpath(*module.split("."), alias.name)
            is_module = inner.with_suffix(".py").is_file() or (inner / "__init__.py").is_file()
            yield f"{module}.{alias.name}" if is_module else module


def layer_violations(root: Path) -> list[str]:
    """Imports of the SDK that point upwards, and modules that have no layer."""
    problems = []
    for item in imports_of(root, "dsa_runtime"):
        source = Import(item.source, "", "").part("dsa_runtime")
        if source is None:  # dsa_runtime/__init__.py gives every public name a short address
            continue
        target = item.part("dsa_runtime")
        if source not in RANK:
            problems.append(f"{item.where}: {source} has no layer: give it one in LAYERS")
        elif target is not None and RANK.get(target, len(RANK)) > RANK[source]:
            problems.append(f"{item.where}: {source} must not import {target}")
    return problems


def foreign_violations(root: Path, package: str, allowed: set[str]) -> list[str]:
    """Imports that are neither of the standard library, nor of the package, nor in `allowed`."""
    known = allowed | {package} | sys.stdlib_module_names
    return [f"{item.where}: {item.name}" for item in imports_of(root, package) if item.root not in known]


def declared(*extras: str) -> set[str]:
    """Top-level modules of the base install's requirements and of these extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = [*project["dependencies"]]
    for extra in extras:
        requirements += project["optional-dependencies"][extra]
    names = [re.split(r"[^A-Za-z0-9_.-]", requirement, maxsplit=1)[0].lower() for requirement in requirements]
    return {MODULES.get(name, name.replace("-", "_")) for name in names}


def test_arrows_in_the_sdk_point_one_way() -> None:
    assert layer_violations(ROOT) == []


def test_every_layer_has_modules_and_the_sdk_was_found() -> None:
    """The test above would also pass on nothing."""
    sources = {Import(item.source, "", "").part("dsa_runtime") for item in imports_of(ROOT, "dsa_runtime")}
    assert {"engine", "session", "world", "commands", "cli"} <= sources


def test_the_sdk_has_no_import_cycles() -> None:
    graph: dict[str, set[str]] = {}
    for item in imports_of(ROOT, "dsa_runtime"):
        if item.part("dsa_runtime") and not item.for_types_only and item.source != "dsa_runtime":
            graph.setdefault(item.source, set()).add(item.name)
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


def test_the_sdk_imports_only_its_base_requirements() -> None:
    """So neither torch nor onnx nor the training side, and nothing that `pip install dsa-runtime` lacks."""
    assert not {"torch", "onnx", "exporters"} & declared(*itertools.chain(*EXTRAS.values()))
    found = foreign_violations(ROOT, "dsa_runtime", declared())
    for part, extras in EXTRAS.items():
        known = declared(*extras)
        found = [line for line in found if not (line.startswith(part) and line.split(": ")[1].split(".")[0] in known)]
    assert found == []


def test_exporters_import_only_their_requirements() -> None:
    assert foreign_violations(ROOT, "exporters", declared("train", "convert") | {"dsa_runtime"}) == []


def test_onnxruntime_comes_in_by_the_door_that_switches_its_telemetry_off() -> None:
    items = [item for package in ("dsa_runtime", "exporters") for item in imports_of(ROOT, package)]
    assert {item.source for item in items if item.root == "onnxruntime"} == {"dsa_runtime.ort"}


def test_the_viewer_stands_beside_the_server_and_only_its_command_knows_it() -> None:
    items = imports_of(ROOT, "dsa_runtime")
    viewer = [item for item in items if item.source.startswith("dsa_runtime.viewer")]
    served = {item.name for item in viewer if item.part("dsa_runtime") == "serving"}
    assert served == {f"dsa_runtime.serving.{name}" for name in ("client", "link", "spectator")}
    knowing = {item.source for item in items if item.part("dsa_runtime") == "viewer" and item not in viewer}
    assert knowing == {"dsa_runtime.commands.play"}


def test_exporters_leave_the_user_facing_parts_of_the_sdk_alone() -> None:
    wrong = [
        f"{item.where}: {item.name}"
        for item in imports_of(ROOT, "exporters")
        if item.part("dsa_runtime") in NOT_FOR_EXPORTERS
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("file", "line", "problem"),
    [
        ("engine.py", "from .session import Session", "engine must not import session"),
        ("engine.py", "from . import world", "engine must not import world"),
        ("spec.py", "def f():\n    import dsa_runtime.cli", "spec must not import cli"),
        ("ops/kernel.py", "from ..engine import Engine", "ops must not import engine"),
        ("engine.py", "from .novelty import x", "engine must not import novelty"),
        ("novelty.py", "from .spec import x", "novelty has no layer"),
    ],
)
def test_a_wrong_arrow_is_found(tmp_path: Path, file: str, line: str, problem: str) -> None:
    sdk = tmp_path / "dsa_runtime"
    (sdk / "ops").mkdir(parents=True)
    for name in ("session", "world", "cli", "novelty"):
        (sdk / f"{name}.py").touch()
    assert layer_violations(tmp_path) == []
    (sdk / file).write_text(line)
    (found,) = layer_violations(tmp_path)
    assert problem in found


@pytest.mark.parametrize("line", ["import torch", "from torch import nn", "import exporters.model", "import tests"])
def test_a_foreign_import_is_found(tmp_path: Path, line: str) -> None:
    (tmp_path / "dsa_runtime").mkdir()
    (tmp_path / "dsa_runtime" / "engine.py").write_text(f"import numpy\ndef f():\n    {line}\n")
    assert len(foreign_violations(tmp_path, "dsa_runtime", declared())) == 1


def test_the_command_line_plays_with_torch_and_onnx_blocked(tiny_package: Path, tmp_path: Path) -> None:
    arguments = ["demo", "--world", str(tiny_package), "--ticks", "3", "--out", str(tmp_path / "out"), "--json"]
    result = subprocess.run(
        [sys.executable, "-c", PLAY_ON_THE_COMMAND_LINE, *arguments], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["ticks"] == 3
