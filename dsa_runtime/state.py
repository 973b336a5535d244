"""SessionState: what one tick changes, apart from the window into the frame cache."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .controller import ControllerState


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
    """`float32[C, h, w]`, the newest frame before decoding. With `action` it is what a commit needs."""
