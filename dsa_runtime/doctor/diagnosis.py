"""Diagnosis: what a world costs on one machine, measured, and what follows from it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import strict_json
from ..engine import available_cores
from ..errors import DiagnosisError, WorldError
from ..spec import WorldSpec

FORMAT = "dsa-diagnosis"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Spread:
    """Quantiles of measured times in milliseconds, by nearest rank: of few samples, the upper ones are the
    maximum."""

    samples: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float

    @classmethod
    def of(cls, values_ms: Sequence[float]) -> Spread:
        """The quantiles of at least one value."""
        ordered = sorted(values_ms)
        ranks = (max(math.ceil(q * len(ordered)), 1) - 1 for q in (0.5, 0.9, 0.99, 0.999, 1.0))
        return cls(len(ordered), *(round(ordered[rank], 4) for rank in ranks))


@dataclass(frozen=True)
class Lateness:
    """How much later than asked for a waiting thread was woken."""

    wait: str
    """`sleep`: of a plain sleep; `lock`: of a timed wait for a lock, which is how `Session.step` waits."""
    scheduling: str
    """`own`: the process as it was started; `fifo`: a child process under SCHED_FIFO."""
    loaded: bool
    """Beside busy processes."""
    late: Spread


@dataclass(frozen=True)
class StageCost:
    """Cost of one stage of a tick."""

    threads: int
    loaded: bool
    stage: str
    """`denoise 1` ... `denoise K`, `decode`, `sdk`, `commit` (from the return of the frame until the session is
    free for the next one); `tick` is all of them, with the full schedule."""
    cost: Spread


@dataclass(frozen=True)
class Fit:
    """How often a tick with this many denoising steps fitted into a period."""

    steps: int
    fitting: int
    """Ticks that did."""
    share: float
    at_least: float
    """Lower 95 % confidence bound of the share (exact binomial), were ticks independent of each other."""


@dataclass(frozen=True)
class Verdict:
    """What holds at one rate. A tick fits if its frame, its commit and the guard fit into the period."""

    rate_hz: float
    loaded: bool
    ticks: int
    holds: int
    """Most denoising steps that fitted in at least 99.9 % of the ticks; 0 if not even one did."""
    fits: tuple[Fit, ...]
    """For 1, 2, ... K steps."""


@dataclass(frozen=True)
class WorldId:
    """The world that was measured."""

    name: str
    version: str
    fingerprint: str
    form: str
    """In which its generator ran, `op`, `plain` or `half`."""


@dataclass(frozen=True)
class Diagnosis:
    """The result of `examine`: plain values throughout. Times are in milliseconds."""

    world: WorldId
    machine: Mapping[str, Any]
    """What the machine says about itself: `cores`, `cgroup_cores`, `governors`, `scheduling`, ..."""
    threads: int
    """Threads per graph that did best on an idle machine; verdicts and costs are with these."""
    guard_ms: float
    """Time to keep free before a deadline: the 99th percentile of how late a timed wait is woken."""
    rest_ms: float
    """Pause between the measured ticks."""
    lateness: tuple[Lateness, ...]
    stages: tuple[StageCost, ...]
    verdicts: tuple[Verdict, ...]
    advice: tuple[str, ...]
    costs: Mapping[str, tuple[float, ...]]
    """Recent costs per stage on the idle machine, as `LatencyModel.export` gives and `prime` takes them."""

    def __post_init__(self) -> None:
        _check(self.threads >= 1, "threads", f"must be at least 1, got {self.threads}")
        _check(self.guard_ms >= 0, "guard_ms", f"must not be negative, got {self.guard_ms}")
        cores = self.machine.get("cores")
        _check(type(cores) is int and cores >= 1, "machine.cores", f"must be an integer of at least 1, got {cores!r}")
        for stage, costs_ms in self.costs.items():
            _check(all(cost >= 0 for cost in costs_ms), f"costs.{stage}", "must not hold negative values")

    def check(self, spec: WorldSpec, form: str) -> None:
        """Raise `DiagnosisError` unless it was made with this world in this form and with as many cores as now."""
        if self.world.fingerprint != spec.fingerprint:
            raise DiagnosisError(
                f"world.fingerprint: made with {self.world.name} {self.world.version} "
                f"({self.world.fingerprint[:12]}), this is {spec.name} {spec.version} ({spec.fingerprint[:12]}); "
                "run `dsa doctor` with this world"
            )
        if self.world.form != form:
            raise DiagnosisError(
                f"world.form: made in the {self.world.form} form, this world runs in the {form} form; "
                "run `dsa doctor` again"
            )
        cores = available_cores()
        if self.machine["cores"] != cores:
            raise DiagnosisError(
                f"machine.cores: made with {self.machine['cores']} usable cores, here are {cores}; "
                "run `dsa doctor` on this machine, as the program is run"
            )

    def to_dict(self) -> dict[str, Any]:
        """The document as plain JSON values."""
        return {"format": FORMAT, "format_version": FORMAT_VERSION, **strict_json.encode(self)}

    def to_json(self) -> str:
        """The text of the document; `Diagnosis.from_json(diagnosis.to_json()) == diagnosis`."""
        return strict_json.render(self.to_dict())

    @classmethod
    def from_json(cls, text: str | bytes, source: str = "diagnosis") -> Diagnosis:
        """The diagnosis in `text`; `source` names the document in errors. Raises `DiagnosisError`."""
        try:
            document = strict_json.parse(text, source)
            kind, version = document.pop("format", None), document.pop("format_version", None)
            _check(kind == FORMAT, "format", f"expected {FORMAT!r}, got {kind!r}")
            known = type(version) is int and version == FORMAT_VERSION
            _check(known, "format_version", f"this runtime reads version {FORMAT_VERSION}, got {version!r}")
            return strict_json.decode(cls, document, source)
        except WorldError as error:
            raise DiagnosisError(str(error)) from None
        except DiagnosisError as error:
            raise DiagnosisError(f"{source}.{error}") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the document to a file."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Diagnosis:
        """Read what `save` has written. Raises `DiagnosisError`."""
        try:
            text = Path(path).read_bytes()
        except OSError as error:
            raise DiagnosisError(f"{path}: {error.strerror or error}; `dsa doctor --out FILE` writes one") from None
        return cls.from_json(text, str(path))


def _check(condition: bool, field: str, problem: str) -> None:
    if not condition:
        raise DiagnosisError(f"{field}: {problem}")
