"""Sample pictures of a training run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def save_grid(path: Path, rows: list[np.ndarray], scale: int = 2) -> None:
    """Write rows of uint8[N, H, W, 3] pictures as one PNG, each enlarged `scale` times."""
    grid = np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
    image = Image.fromarray(grid)
    image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST).save(path)
