"""Write a world package. A reader finds the old package or the new one, never a mixture."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dsa_runtime.ops import schema
from dsa_runtime.package import Package, open_package
from dsa_runtime.seeds import load_seeds
from dsa_runtime.spec import (
    SEEDS_FILE,
    SPEC_FILE,
    ActionSpace,
    CalibrationSpec,
    FileEntry,
    FrameSpec,
    OpsSpec,
    ScheduleSpec,
    WorldSpec,
)
from exporters.model.autoencoder import Autoencoder
from exporters.model.generator import Generator
from exporters.packaging.clips import Clips
from exporters.packaging.describe import cache_spec, latent_spec
from exporters.packaging.export import export_graph
from exporters.packaging.forms import check_forms
from exporters.packaging.graphs import PICTURE_SCALE, Graph, autoencoder_graphs, generator_graphs
from exporters.packaging.lean import lean_generator
from exporters.packaging.rounding import deployed_autoencoder, deployed_generator
from exporters.packaging.weights_file import WeightsFile

WEIGHTS_FILE = "weights.bin"
CARD_FILE = "card.md"
GRAPH_FILES = {
    "denoise": "denoise.plain.onnx",
    "commit": "commit.plain.onnx",
    "decode": "decode.onnx",
    "encode": "encode.onnx",
    "denoise_op": "denoise.onnx",
    "commit_op": "commit.onnx",
    "write_op": "write.onnx",
    "denoise_half": "denoise.half.onnx",
    "commit_half": "commit.half.onnx",
    "write_half": "write.half.onnx",
    "decode_first": "decode.first.onnx",
    "condition": "condition.onnx",
}
"""By name in the spec. The form with custom operators is the faster one and has the short names."""


@dataclass(frozen=True)
class WorldDescription:
    """What a package says about its world beyond what the modules themselves know."""

    name: str
    version: str
    licence: str
    description: str
    frame: FrameSpec
    action_space: ActionSpace
    schedule: ScheduleSpec
    calibration: CalibrationSpec
    provenance: Mapping[str, Any]
    """Free form: data, training command, commit, seeds, metrics."""


def write_package(
    folder: Path,
    generator: Generator,
    autoencoder: Autoencoder,
    description: WorldDescription,
    contexts: Clips,
    card: str,
) -> WorldSpec:
    """Export the modules and write the whole package to `folder`, replacing what is there; returns its spec.

    contexts   `window` frames each, and the actions that led to them, in the form of the action space
    card       text of card.md

    The modules are not changed. The new package is opened, loaded with the runtime and its forms compared before it
    takes its place, so that nothing is published that would not run. Raises `WorldError` or ValueError, and then
    `folder` is as it was.
    """
    _check_fit(generator, autoencoder, description, contexts)
    c = generator.config
    lean = lean_generator(deployed_generator(generator))
    graphs = [
        *generator_graphs(lean, "plain"),
        *autoencoder_graphs(deployed_autoencoder(autoencoder), c.latent_height, c.latent_width),
        *generator_graphs(lean, "op"),
    ]
    with replacing(folder) as partial:
        write_graphs(partial, graphs, WeightsFile(WEIGHTS_FILE))
        write_contexts(partial, contexts)
        (partial / CARD_FILE).write_text(card, encoding="utf-8")
        spec = world_spec(generator, description, file_entries(partial))
        write_spec(partial, spec)
        with open_package(partial) as package:
            check_forms(package)
            load_seeds(package.path(SEEDS_FILE), package.spec)
    return spec


def world_spec(generator: Generator, description: WorldDescription, files: Mapping[str, FileEntry]) -> WorldSpec:
    """The spec of a package whose files are these."""
    return WorldSpec(
        name=description.name,
        version=description.version,
        licence=description.licence,
        description=description.description,
        frame=description.frame,
        action_space=description.action_space,
        latent=latent_spec(generator.config),
        cache=cache_spec(generator.config),
        schedule=description.schedule,
        ops=OpsSpec(schema.DOMAIN, schema.VERSION),
        graphs={name: file for name, file in GRAPH_FILES.items() if file in files},
        calibration=description.calibration,
        files=files,
        provenance=description.provenance,
    )


def file_entries(folder: Path) -> dict[str, FileEntry]:
    """Size and digest of every file but the spec, by name."""
    return {
        path.name: FileEntry(hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)
        for path in sorted(folder.iterdir())
        if path.name != SPEC_FILE
    }


def write_graphs(folder: Path, graphs: list[Graph], weights: WeightsFile) -> None:
    """Write the graphs by their names in `GRAPH_FILES`, and the weights file with what they add to it."""
    for graph in graphs:
        (folder / GRAPH_FILES[graph.name]).write_bytes(export_graph(graph, weights))
    weights.write(folder)


def write_contexts(folder: Path, contexts: Clips) -> None:
    """Write the start contexts, compressed."""
    np.savez_compressed(folder / SEEDS_FILE, frames=contexts.frames, actions=contexts.actions)


def write_spec(folder: Path, spec: WorldSpec) -> None:
    """Write world.json."""
    (folder / SPEC_FILE).write_text(spec.to_json(), encoding="utf-8")


def copy_with_contexts(package: Package, target: Path, contexts: Clips) -> None:
    """Write the package to the new folder `target`, with other start contexts."""
    target.mkdir()
    for file in package.spec.files:
        if file != SEEDS_FILE:
            shutil.copyfile(package.path(file), target / file)
    write_contexts(target, contexts)
    write_spec(target, dataclasses.replace(package.spec, files=file_entries(target)))


def _check_fit(generator: Generator, autoencoder: Autoencoder, description: WorldDescription, contexts: Clips) -> None:
    """The parts must belong to each other; each mistake is a ValueError that names both sides."""
    c, frame = generator.config, description.frame
    pairs = {
        "latent channels of generator and autoencoder": (c.latent_channels, autoencoder.config.latent_channels),
        "picture of the latents and frame": (
            (PICTURE_SCALE * c.latent_height, PICTURE_SCALE * c.latent_width), (frame.height, frame.width),
        ),
        "action width of generator and action space": (c.action_width, description.action_space.width),
        "window of the generator and frames of the contexts": (c.window, contexts.frames.shape[1]),
    }  # fmt: skip
    for what, (one, other) in pairs.items():
        if one != other:
            raise ValueError(f"{what} differ: {one} and {other}")


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder` that takes its place if the block succeeds and vanishes if it fails."""
    folder = folder.resolve()
    if folder.exists() and not (folder / SPEC_FILE).is_file() and any(folder.iterdir()):
        raise ValueError(f"{folder}: holds something that is not a world package; it is not replaced")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        partial, old = Path(scratch) / "new", Path(scratch) / "old"
        partial.mkdir()
        yield partial
        if folder.exists():
            os.rename(folder, old)
        try:
            os.rename(partial, folder)
        except OSError:
            if old.exists():
                os.rename(old, folder)
            raise
