"""Verification: how far a package in ONNX Runtime is from torch, and whether that is close enough."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

FORMS_APART = 1e-4
"""Largest difference of a tensor between the forms of a package, which hold the same weights."""
HALF_APART = 0.05
"""Mean difference of a tensor in float16 from that in float32. Clean estimates, keys and values are about 1 in size."""


@dataclass(frozen=True)
class Limits:
    """What a package must keep to."""

    tensor: float = 1e-3
    """Largest difference of a clean estimate, logit, latent, key or value from torch's under equal inputs."""
    forms: float = FORMS_APART
    """Largest difference of a clean estimate, logit, key or value between the forms under equal inputs."""
    grey_levels: int = 1
    """Largest difference of a decoded picture under equal inputs: a value on the edge between two may round apart."""
    equal_steps: float = 0.995
    """Share of frames on which both stop after the same denoising step."""


STORED = Limits()
"""Torch computes with the weights as the package stores them: what is left is the order of sums."""
TRAINED = Limits(tensor=2e-2)
"""Torch computes with the weights as they were trained: rounding them to float16 comes on top."""


@dataclass
class Difference:
    """Of one output over all comparisons."""

    largest: float = 0.0
    total: float = 0.0
    values: int = 0
    apart: int = 0
    """Values that differ at all."""

    def add(self, one: np.ndarray, other: np.ndarray) -> None:
        gap = np.abs(one.astype(np.float64) - other.astype(np.float64))
        # A NaN on one side must not pass as 'no difference'.
        gap = np.where(np.isnan(gap), math.inf, gap)
        self.largest = max(self.largest, float(gap.max()))
        self.total += float(gap.sum())
        self.values += gap.size
        self.apart += int(np.count_nonzero(gap))

    @property
    def mean(self) -> float:
        return self.total / max(self.values, 1)


@dataclass(frozen=True)
class Verification:
    """The result; `passed` says whether all limits were kept."""

    world: str
    version: str
    weights: str
    """`as stored` or `as trained`: which weights torch computed with."""
    clips: int
    frames: int
    threshold: float
    forms: tuple[str, ...]
    """The package's forms that were checked, every one by itself. Played was the one that the SDK takes here."""
    unchecked: str
    """Why the form with custom operators was not; empty if it was."""
    graphs: dict[str, Difference]
    """ONNX Runtime against torch, `decode` in grey levels. The generator's graphs are named with their form."""
    between: dict[str, Difference]
    """The form with custom operators against the plain one."""
    pictures: Difference
    """Of free play, in grey levels."""
    confidence: Difference
    """Of free play, calibrated."""
    equal_steps: float
    mean_steps: float
    limits: Limits = field(default_factory=Limits)

    @property
    def passed(self) -> bool:
        tensors = all(d.largest <= self.limits.tensor for name, d in self.graphs.items() if name != "decode")
        pictures = self.graphs["decode"].largest <= self.limits.grey_levels
        forms = all(d.largest <= self.limits.forms for d in self.between.values())
        return tensors and pictures and forms and self.equal_steps >= self.limits.equal_steps

    def to_json(self) -> str:
        """One JSON object."""
        document: dict[str, Any] = asdict(self)
        for part in ("graphs", "between"):
            document[part] = {name: _summary(difference) for name, difference in getattr(self, part).items()}
        for part in ("pictures", "confidence"):
            document[part] = _summary(getattr(self, part))
        return json.dumps({**document, "passed": self.passed}, indent=1)

    def table(self) -> str:
        """The result for people."""
        rows = [("", "largest", "mean", "values apart")]
        between = {f"{name}, op - plain": difference for name, difference in self.between.items()}
        named = {**self.graphs, **between, "play: pictures": self.pictures, "play: confidence": self.confidence}
        rows += [
            (name, f"{d.largest:.3g}", f"{d.mean:.3g}", f"{100 * d.apart / max(d.values, 1):.3g} %")
            for name, d in named.items()
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
        return "\n".join([
            f"{self.world} {self.version}: {self.frames} frames in {self.clips} clips, weights {self.weights}",
            f"forms checked: {', '.join(self.forms)}" + (f"; not op: {self.unchecked}" if self.unchecked else ""),
            *lines,
            f"same denoising steps on {100 * self.equal_steps:.2f} % of frames at threshold {self.threshold:.3f} "
            f"(mean {self.mean_steps:.2f} steps); needed {100 * self.limits.equal_steps:.1f} %",
            "passed" if self.passed else "FAILED",
        ])  # fmt: skip


def _summary(difference: Difference) -> dict[str, float]:
    return {
        "largest": difference.largest,
        "mean": difference.mean,
        "share_apart": difference.apart / max(difference.values, 1),
    }
