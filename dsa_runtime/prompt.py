"""Prompt: the text a session is conditioned on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .arrays_file import ArraysFile, describe
from .device_array import Array
from .errors import PromptError, WorldError
from .spec import WorldSpec


@dataclass(frozen=True, eq=False)
class Prompt:
    """Never changed; shared by all that were made with it."""

    text: np.ndarray
    """`float32[tokens, width]`, embeddings, filled up with zeros."""
    projected: Array
    """`float32[1, 2 * layers, tokens, heads, head_dim]`, on the device: what the generator takes, keys and values of
    each layer."""
    name: str | None = None
    """Of a prompt that comes with the world."""


def load_prompts(path: Path, spec: WorldSpec) -> dict[str, np.ndarray]:
    """Embeddings by name, `float32[tokens, width]` each, of the file `prompts.npz`."""
    with ArraysFile.open(path) as file:
        text = file.read("text")
    expected = (len(spec.text.prompts), spec.text.tokens, spec.text.width)
    if text.dtype != np.float32 or text.shape != expected:
        raise WorldError(f"{path}: text: expected float32[{', '.join(map(str, expected))}], got {describe(text)}")
    if not np.isfinite(text).all():
        raise WorldError(f"{path}: text: must be finite")
    return dict(zip(spec.text.prompts, text, strict=True))


def embeddings(spec: WorldSpec, bundled: Mapping[str, np.ndarray], prompt: Any) -> tuple[np.ndarray, str | None]:
    """What a caller means by `prompt`, as `float32[tokens, width]`, and its name if it has one.

    Raises `PromptError` unless it is the name of a bundled prompt or finite numbers `[at most tokens, width]`.
    """
    text = spec.text
    if not text.width:
        raise PromptError(f"prompt: the world {spec.name!r} takes no text; leave it out")
    if isinstance(prompt, str):
        if prompt not in bundled:
            names = ", ".join(map(repr, bundled))
            raise PromptError(
                f"prompt: expected one of {names}, or embeddings float32[n, {text.width}] "
                f"({text.encoder or 'the SDK has no text encoder'}); got {prompt!r}"
            )
        return bundled[prompt], prompt
    wanted = f"embeddings [at most {text.tokens}, {text.width}]"
    try:
        given = np.asarray(prompt, np.float32)
    except (TypeError, ValueError):
        raise PromptError(f"prompt: expected a name or {wanted}, got {type(prompt).__name__}") from None
    if given.ndim != 2 or not 1 <= len(given) <= text.tokens or given.shape[1] != text.width:
        raise PromptError(f"prompt: expected {wanted}, got {describe(given)}")
    if not np.isfinite(given).all():
        raise PromptError("prompt: the embeddings must be finite")
    filled = np.zeros((text.tokens, text.width), np.float32)
    filled[: len(given)] = given
    return filled, None
