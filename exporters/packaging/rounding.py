"""Deployment copies of trained modules, with the weights that a package will hold.

Weights are stored as float16. Rounding happens here, in torch, before export, so that the graphs and the copies
returned here compute with the same numbers: what differs between them afterwards is arithmetic, not storage.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from exporters.model.autoencoder import Autoencoder
from exporters.model.generator import Generator

LARGE_VALUES = 1024
"""Tensors with at least so many values (and two axes) are rounded. The small ones (biases, norm scales, queries) are
0.1 % of the bytes, and some are factors of every token."""


def deployed_generator(generator: Generator, *, rounded: bool = True) -> Generator:
    """A float32 CPU copy in evaluation mode, its large weights rounded to float16 values unless told otherwise."""
    copy = Generator(generator.config)
    copy.load_state_dict(generator.state_dict())
    return frozen(copy, rounded)


def deployed_autoencoder(autoencoder: Autoencoder, *, rounded: bool = True) -> Autoencoder:
    """As `deployed_generator`, with the latents' normalisation folded into the encoder's last convolution."""
    copy = Autoencoder(autoencoder.config)
    copy.load_state_dict(autoencoder.state_dict())
    copy.eval()
    last = copy.encoder[-1]
    assert isinstance(last, nn.Conv2d)
    copy.encoder[-1] = fuse_conv_bn_eval(last, copy.normalise)
    copy.normalise = nn.Identity()
    return frozen(copy, rounded)


def frozen(module: nn.Module, rounded: bool) -> nn.Module:
    """The module itself, in float32 and evaluation mode, its large weights rounded to float16 values if told so.

    Raises ValueError for a weight that float16 cannot hold.
    """
    module.float().eval().requires_grad_(False)
    for parameter in module.parameters() if rounded else ():
        if parameter.dim() >= 2 and parameter.numel() >= LARGE_VALUES:
            halves = parameter.half()
            if not torch.isfinite(halves).all():
                raise ValueError(f"{type(module).__name__}: a weight lies outside of float16's range")
            parameter.copy_(halves)
    return module
