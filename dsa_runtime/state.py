"""SessionState: what one tick changes, apart from the window into the frame cache."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .controller import ControllerState
from .device_array import Array
from .prompt import Prompt


@dataclass(frozen=True, eq=False)
class SessionState:
    """Replaced as a whole after a finished tick, never changed in part. The arrays are never written to."""

    seed: int
    tick: int
    """Ticks finished since the reset; the index of the next one."""
    controller: ControllerState
    action: np.ndarray
    """`float32[action width]`, encoded: what led to the newest frame."""
    latent: np.ndarray
    """`float32[*latent]`: the newest tick before decoding. With `action` it is what a commit needs."""
    stream: tuple[Array, ...] = ()
    """What a streaming decoder remembers after `latent` (`DecoderSpec.state`); empty for others and where it begins."""
    shown: np.ndarray | None = None
    """`uint8[H, W, 3]`, the newest picture, where it cannot be decoded again (`WorldSpec.keeps_picture`)."""
    prompt: Prompt | None = None
    """In worlds that take text."""
