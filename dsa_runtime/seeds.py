"""Start contexts of a world, for `Session.reset`: a few real ticks, and the actions that led to them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .arrays_file import ArraysFile, describe
from .errors import ActionError, WorldError
from .spec import WorldSpec


@dataclass(frozen=True)
class SeedContexts:
    """`count` contexts of `length` ticks each, oldest first: `window` of them, or fewer where they are latents."""

    actions: np.ndarray
    """`float32[count, length, action width]`, encoded; `actions[i, j]` led to tick j of context i."""
    frames: np.ndarray | None
    """`uint8[count, window, height, width, 3]`, with another axis before the height where a tick has several pictures.
    None in a world without an encoder."""
    latents: np.ndarray | None
    """`float32[count, length, *latent]` there; the length may be 0: such a world begins with nothing."""

    @property
    def count(self) -> int:
        return len(self.actions)


def load_seeds(path: Path, spec: WorldSpec) -> SeedContexts:
    """Read and check `seeds.npz`. Nothing is unpickled, and sizes are checked before memory is taken."""
    encoded = spec.begins_full
    with ArraysFile.open(path) as file:
        ticks = file.read("frames" if encoded else "latents")
        actions = file.read("actions")
    if encoded:
        frame = spec.frame
        picture = frame.shape if frame.frames_per_tick == 1 else frame.tick_shape
        _check_ticks(path, "frames", np.dtype(np.uint8), ticks, (spec.cache.window, *picture))
    else:
        _check_latents(path, ticks, spec)
    space, lead = spec.action_space, ticks.shape[:2]
    if actions.shape != (*lead, *space.shape):
        shape = ", ".join(map(str, (*lead, *space.shape)))
        raise WorldError(f"{path}: actions: expected shape [{shape}], got {describe(actions)}")
    encodings = np.empty((*lead, space.width), np.float32)
    for index in np.ndindex(*lead):
        try:
            encodings[index] = space.encode(actions[index])
        except ActionError as error:
            raise WorldError(f"{path}: actions{list(index)}: {error}") from None
    return SeedContexts(encodings, ticks if encoded else None, None if encoded else ticks)


def _check_latents(path: Path, latents: np.ndarray, spec: WorldSpec) -> None:
    length = latents.shape[1] if latents.ndim > 1 else 0
    _check_ticks(path, "latents", np.dtype(np.float32), latents, (min(length, spec.cache.window), *spec.latent.shape))
    if not np.isfinite(latents).all():
        raise WorldError(f"{path}: latents: must be finite")


def _check_ticks(path: Path, name: str, dtype: np.dtype, found: np.ndarray, expected: tuple[int, ...]) -> None:
    if found.dtype != dtype or found.shape[1:] != expected or not len(found):
        wanted = ", ".join(map(str, expected))
        raise WorldError(f"{path}: {name}: expected {dtype}[n, {wanted}], got {describe(found)}")
