"""Digest: which weights something was made with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def weights_digest(*models: nn.Module) -> str:
    """SHA-256 of all parameters and buffers, with their names; the same on every device."""
    digest = hashlib.sha256()
    for model in models:
        update(digest, model.state_dict())
    return digest.hexdigest()


def update(digest: hashlib._Hash, state: Mapping[str, Tensor]) -> None:
    """Feed named tensors, in the order of their names."""
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
