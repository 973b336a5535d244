"""Prompts as messages carry them: the name of one of the world's, or embeddings in a buffer."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..prompt import embeddings
from ..spec import WorldSpec
from .fields import optional, text
from .wire import Buffer, Message, WireError

Prompt = str | np.ndarray
"""A name, or `float32[n, width]`."""


def checked_prompt(spec: WorldSpec, prompt: Any) -> Prompt:
    """What a caller means by `prompt`, in memory of its own. Raises `PromptError` for what the world does not take."""
    name = _read(spec, prompt)[1]
    return np.array(prompt, np.float32) if name is None else name


def filled_prompt(spec: WorldSpec, prompt: Prompt) -> Prompt:
    """As `Session.prompt` says it: a name, or `float32[tokens, width]`, fresh."""
    rows, name = _read(spec, prompt)
    return rows if name is None else name


def prompt_parts(prompt: Prompt | None) -> tuple[dict[str, Any], tuple[Buffer, ...]]:
    """Fields and buffers of a request that bears it; of None, nothing."""
    if prompt is None:
        return {}, ()
    if isinstance(prompt, str):
        return {"prompt": prompt}, ()
    rows = np.ascontiguousarray(prompt, "<f4")
    return {}, (Buffer("prompt", "f4", rows.shape, rows.data.cast("B")),)


def prompt_of(message: Message) -> Prompt | None:
    """The prompt that a request bears, None for none. What the world takes, its session knows. Raises `WireError`."""
    name = optional(text, message.fields, "prompt")
    given = next((buffer for buffer in message.buffers if buffer.name == "prompt"), None)
    if given is None:
        return name
    if name is not None:
        raise WireError("malformed", "prompt: expected a name or a buffer of that name, got both")
    shape = list(given.shape)
    if given.data is None or given.encoding != "raw" or given.dtype != "f4" or len(shape) != 2 or not given.nbytes:
        raise WireError("malformed", f"bufs.prompt: expected raw f4 [n, width] in a part, got {given.dtype} {shape}")
    rows: np.ndarray = np.frombuffer(given.data, "<f4").reshape(shape)
    return rows


def _read(spec: WorldSpec, prompt: Any) -> tuple[np.ndarray, str | None]:
    """Embeddings, filled up, and the name; a name's embeddings are not on this side of the wire."""
    return embeddings(spec, dict.fromkeys(spec.text.prompts, np.empty(0, np.float32)), prompt)
