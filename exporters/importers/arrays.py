"""Arrays: the one tensor of a file that somebody else has made."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from exporters.importers.checkpoint import SAFETENSORS, CheckpointError, open_checkpoint


def read_array(path: Path) -> Tensor:
    """The only array of a `.safetensors` or `.npz` file, in its own dtype. Raises CheckpointError if it has not one."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    if path.suffix == SAFETENSORS:
        readers = {name: entry.read for name, entry in open_checkpoint(path).items()}
        if len(readers) == 1:
            return next(iter(readers.values()))()
        raise CheckpointError(f"{path}: it must hold one array, and holds {', '.join(readers)}")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = arrays.files
            if len(names) == 1:
                return torch.from_numpy(arrays[names[0]])
    except (ValueError, OSError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: not a .safetensors or .npz file of numbers ({error})") from None
    raise CheckpointError(f"{path}: it must hold one array, and holds {', '.join(names) or 'none'}")
