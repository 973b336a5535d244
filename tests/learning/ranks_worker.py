"""One process of `test_distributed`: the training command, with every step in the log."""

from __future__ import annotations

import os
import sys
import time

import torch

from exporters.__main__ import main
from exporters.training import stage
from exporters.training.stage import Stage

LOG, CLOCK = Stage.log, time.monotonic


def in_full_precision(device: torch.device) -> bool:
    """In place of `has_fast_bf16`: half a batch rounds otherwise than a whole one, and curves shall be equal."""
    return False


def log_every_step(stage: Stage, every: int, **values: float) -> None:
    """In place of `Stage.log`."""
    LOG(stage, 1, **values)
    if stage.name == os.environ.get("TEST_DRAW_ALONE_IN") and os.environ["RANK"] == "1":
        torch.rand(1)  # a mistake that the run has to notice


if __name__ == "__main__":
    Stage.log = log_every_step  # type: ignore[method-assign]
    stage.has_fast_bf16 = in_full_precision
    if os.environ["RANK"] == "1":
        # Clocks of two machines differ. By this one it is time to save, and soon to stop, after every step.
        time.monotonic = lambda: 10_000 * CLOCK()
    sys.exit(main(sys.argv[1:]))
