"""Bring a package up to date: write its generator's graphs again as the exporter of today would."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from dsa_runtime.engine import Engine
from dsa_runtime.form import Form
from dsa_runtime.package import Package, open_package
from exporters.model.generator import GeneratorConfig
from exporters.packaging.forms import Differences, check_forms, compare_engines
from exporters.packaging.graphs import generator_graphs
from exporters.packaging.lean import lean_generator
from exporters.packaging.recover import recover_generator
from exporters.packaging.weights_file import WeightsFile
from exporters.packaging.write import GRAPH_FILES, WEIGHTS_FILE, file_entries, replacing, write_graphs, write_spec

PLAIN_APART = 1e-6
"""The plain form must stay what it was, to a rounding error."""


@dataclass(frozen=True)
class Reexport:
    """What came of it."""

    files: dict[str, str]
    """Every file of the package: `kept`, `changed`, `new` or `removed`."""
    forms: tuple[Form, ...]
    """Forms that were run, and compared with each other."""
    plain: Differences
    """The new plain form against the old one."""


def reexport_package(folder: Path, config: GeneratorConfig, note: Mapping[str, Any]) -> Reexport:
    """Write the generator's graphs of a package again, in all forms, from the package's own weights.

    config   shape of the generator, as in its recipe
    note     what provenance says about it, as `reexported`

    The autoencoder's graphs and the weights stay byte for byte; tensors that the new graphs need besides are appended.
    Raises `WorldError` or ValueError, and then the package is as it was: if it is damaged, if it is not of this recipe,
    or if the new plain form does not compute what the old one did.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: not a folder")
    with open_package(folder) as package, replacing(folder) as partial:
        generator = lean_generator(recover_generator(package, config))
        graphs = [*generator_graphs(generator, "plain"), *generator_graphs(generator, "op")]
        write_graphs(partial, graphs, _weights(package))
        names = {graph.name: GRAPH_FILES[graph.name] for graph in graphs}
        replaced = {package.spec.graphs[name] for name in names if name in package.spec.graphs}
        for file in package.spec.files.keys() - replaced - {WEIGHTS_FILE}:
            shutil.copyfile(package.path(file), partial / file)
        spec = dataclasses.replace(
            package.spec,
            graphs={**package.spec.graphs, **names},
            files=file_entries(partial),
            provenance={**package.spec.provenance, "reexported": dict(note)},
        )
        write_spec(partial, spec)
        with open_package(partial) as new:
            engines = check_forms(new)
            plain = compare_engines(engines["plain"], Engine(package, threads=1, form="plain"))
        for name, difference in plain.items():
            if not difference.largest <= PLAIN_APART:
                raise ValueError(f"{folder}: {name} would change by {difference.largest:.2g}")
        return Reexport(_changes(package.spec.files, spec.files), tuple(engines), plain)


def _weights(package: Package) -> WeightsFile:
    """The package's weights file, to be added to."""
    spans = set()
    for file in package.spec.graphs.values():
        for tensor in onnx.load(package.path(file), load_external_data=False).graph.initializer:
            if where := {entry.key: entry.value for entry in tensor.external_data}:
                spans.add((int(where["offset"]), int(where["length"])))
    return WeightsFile(WEIGHTS_FILE, package.path(WEIGHTS_FILE).read_bytes(), sorted(spans))


def _changes(before: Mapping[str, object], after: Mapping[str, object]) -> dict[str, str]:
    def change(file: str) -> str:
        if file not in after:
            return "removed"
        if file not in before:
            return "new"
        return "kept" if before[file] == after[file] else "changed"

    return {file: change(file) for file in sorted(before.keys() | after.keys())}
