"""The generator of a package from its own graphs and weights, where the checkpoint is not at hand.

Where a weight lies in a graph, transposed or not, is up to the tracing. So a generator of the same shape is exported as
well, with random weights that no two parameters share: where one of them is found, the package has its own. Places are
counted by operator and input and not by name, because names change with the version of torch.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from dsa_runtime.package import Package
from dsa_runtime.spec import WorldSpec
from exporters.model.generator import Generator, GeneratorConfig
from exporters.packaging.describe import cache_spec, latent_spec
from exporters.packaging.export import export_graph
from exporters.packaging.graphs import Graph, generator_graphs
from exporters.packaging.lean import lean_generator, norm_scales
from exporters.packaging.weights_file import WeightsFile

Module = TypeVar("Module", bound=nn.Module)
Place = tuple[int, int]
"""Which operator of a graph, and which of its inputs."""
Constants = dict[Place, np.ndarray]


def recover_generator(package: Package, config: GeneratorConfig) -> Generator:
    """The generator of the package's plain `denoise` graph, its weights as they are stored.

    Raises ValueError if `config` is not its shape.
    """
    _check_fit(package.spec, config)
    path = package.path(package.spec.graphs["denoise"])
    operators, constants = constants_of(path)
    marked = lean_generator(marked_module(Generator(config)))
    marked_operators, marks = _exported_constants(marked)
    if operators != marked_operators:
        raise ValueError(f"{path}: not the operators that a generator of this recipe is exported to")
    state = found_state(marked, marks, constants)
    for index in range(config.depth):
        block = f"blocks.{index}"
        scales = torch.tensor(norm_scales(state[f"{block}.cosine"].numpy()))
        state[f"{block}.query_norm.weight"], state[f"{block}.key_norm.weight"] = scales
    generator = Generator(config)
    for name, parameter in generator.state_dict().items():
        if state[name].shape != parameter.shape:
            shapes = f"{list(state[name].shape)}, in the recipe {list(parameter.shape)}"
            raise ValueError(f"{path}: the shape of {name} is {shapes}")
    generator.load_state_dict({name: state[name] for name in generator.state_dict()})
    return generator.eval().requires_grad_(False)


def _check_fit(spec: WorldSpec, config: GeneratorConfig) -> None:
    pairs = {
        "latent": (spec.latent, latent_spec(config)),
        "cache": (spec.cache, cache_spec(config)),
        "action width": (spec.action_space.width, config.action_width),
    }
    for what, (package, recipe) in pairs.items():
        if package != recipe:
            raise ValueError(f"{what} of the package and of the recipe differ: {package} and {recipe}")


def marked_module(module: Module) -> Module:
    """`module` with random parameters; torch's global generator is left alone."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng))
    return module


def _exported_constants(generator: Generator) -> tuple[list[str], Constants]:
    return exported_constants(generator_graphs(generator, "plain")[0])


def exported_constants(graph: Graph) -> tuple[list[str], Constants]:
    """`constants_of` what `graph` is exported to."""
    weights = WeightsFile("weights.bin")
    content = export_graph(graph, weights)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "marked.onnx"
        path.write_bytes(content)
        weights.write(path.parent)
        return constants_of(path)


def constants_of(path: Path) -> tuple[list[str], Constants]:
    """The operators in order and the constants at their inputs, halves widened (see `export.export_graph`)."""
    model = onnx.load(path)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    operators: list[str] = []
    constants: Constants = {}
    for node in model.graph.node:
        if node.op_type == "Cast" and node.input[0] in tensors:
            tensors[node.output[0]] = tensors[node.input[0]].astype(np.float32)
            continue
        constants.update({(len(operators), i): tensors[name] for i, name in enumerate(node.input) if name in tensors})
        operators.append(node.op_type)
    return operators, constants


def found_state(marked: nn.Module, marks: Constants, constants: Constants) -> dict[str, Tensor]:
    """State of the module with `constants` in its graph, found by the `marks` in the graph of `marked`."""
    places = {_key(mark): place for place, mark in marks.items()}

    def read(mark: np.ndarray) -> np.ndarray | None:
        place = places.get(_key(mark))
        # Export leaves out an addend of zeros.
        return None if place is None else constants.get(place, np.zeros_like(mark))

    state = {}
    for name, tensor in marked.state_dict().items():
        mark = tensor.numpy()
        whole, turned = read(mark), read(mark.T)
        # A vector of channels is laid out to be broadcast over a picture.
        spread = read(mark[:, None, None]) if mark.ndim == 1 else None
        if whole is not None:
            state[name] = whole
        elif turned is not None:
            state[name] = turned.T
        elif spread is not None:
            state[name] = spread.reshape(-1)
        elif mark.ndim:
            rows = [row for row in map(read, mark) if row is not None]
            if len(rows) == len(mark):
                state[name] = np.stack(rows)
    return {name: torch.tensor(array) for name, array in state.items()}


def _key(array: np.ndarray) -> tuple[tuple[int, ...], bytes]:
    return array.shape, array.tobytes()
