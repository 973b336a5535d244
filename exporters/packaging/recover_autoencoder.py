"""The autoencoder of a package from its own graphs and weights, as `recover` finds the generator."""

from __future__ import annotations

import torch
from torch import Tensor

from dsa_runtime.package import Package
from dsa_runtime.spec import WorldSpec
from exporters.model.autoencoder import Autoencoder, AutoencoderConfig
from exporters.packaging.graphs import PICTURE_SCALE, autoencoder_graphs
from exporters.packaging.recover import constants_of, exported_constants, found_state, marked_module
from exporters.packaging.rounding import deployed_autoencoder


def recover_autoencoder(package: Package, config: AutoencoderConfig) -> Autoencoder:
    """The autoencoder of the package's `encode` and `decode` graphs, its weights as they are stored.

    A package has the normalisation of the latents folded into the encoder's last convolution; here it stays there, and
    the autoencoder's own normalisation does nothing. Raises ValueError if `config` is not its shape.
    """
    _check_fit(package.spec, config)
    latent = package.spec.latent
    marked = deployed_autoencoder(marked_module(Autoencoder(config)), rounded=False)
    state: dict[str, Tensor] = {}
    for graph in autoencoder_graphs(marked, latent.height, latent.width):
        path = package.path(package.spec.graphs[graph.name])
        operators, constants = constants_of(path)
        marked_operators, marks = exported_constants(graph)
        if operators != marked_operators:
            raise ValueError(f"{path}: not the operators that an autoencoder of this recipe is exported to")
        found = found_state(marked, marks, constants)
        for name, value in found.items():
            expected = marked.state_dict()[name].shape
            if value.shape != expected:
                raise ValueError(f"{path}: the shape of {name} is {list(value.shape)}, in the recipe {list(expected)}")
        state |= found
    autoencoder = Autoencoder(config)
    normalise = autoencoder.normalise
    state["normalise.running_mean"] = torch.zeros_like(normalise.running_mean)
    state["normalise.running_var"] = torch.full_like(normalise.running_var, 1.0 - normalise.eps)
    state["normalise.num_batches_tracked"] = torch.zeros_like(normalise.num_batches_tracked)
    autoencoder.load_state_dict(state)
    return autoencoder.eval().requires_grad_(False)


def _check_fit(spec: WorldSpec, config: AutoencoderConfig) -> None:
    latent, frame = spec.latent, spec.frame
    pairs = {
        "latent channels": (latent.channels, config.latent_channels),
        "picture channels": (frame.channels, config.picture_channels),
    }
    for what, (package, recipe) in pairs.items():
        if package != recipe:
            raise ValueError(f"{what} of the package and of the recipe differ: {package} and {recipe}")
    if (frame.height, frame.width) != (PICTURE_SCALE * latent.height, PICTURE_SCALE * latent.width):
        raise ValueError(f"pictures of the package are not {PICTURE_SCALE} times its latents: {frame} and {latent}")
