"""Costs: what a confidence head and the decision by it cost at play, so that rules can be compared at equal time.

Measured in ONNX Runtime with one thread on a package's own graphs, for one session with a full window. All parts take
turns, so that whatever else the machine does meets all of them; medians count. The clock is that of the one thread that
does it all: what it shows is the wall time of a machine with nothing else to do, whatever else this one does meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.utils import Extractor

from dsa_runtime.controller import Controller, ControllerState
from dsa_runtime.form import FormChoice, choose_form
from dsa_runtime.ort import ort
from dsa_runtime.package import Package, open_package
from dsa_runtime.spec import WorldSpec
from exporters.packaging.forms import random_inputs

_DECISIONS = 100
_WARM = 5


@dataclass(frozen=True)
class StepCosts:
    """Median milliseconds of one session's parts of a tick."""

    step_ms: float
    """A denoising step of a world without a head."""
    head_ms: float
    """What the head adds to every step: median of the paired differences, not below zero."""
    decision_ms: float
    """The host: calibrating the logit and asking the controller."""
    commit_ms: float
    decode_ms: float
    form: str
    rounds: int

    @property
    def head_ratio(self) -> float:
        """Steps that a world without a head takes in the time of one step with head and decision."""
        return (self.step_ms + self.head_ms + self.decision_ms) / self.step_ms

    def tick_ms(self, steps: float, adaptive: bool) -> float:
        """A whole tick, commit included, at so many mean steps."""
        return steps * self.step_ms * (self.head_ratio if adaptive else 1.0) + self.commit_ms + self.decode_ms

    def to_json(self) -> dict[str, Any]:
        """With what follows from them."""
        return {**asdict(self), "head_ratio": self.head_ratio}


def measure_costs(folder: Path, rounds: int = 200) -> StepCosts:
    """Time the package in `folder`. Raises WorldError for something that is not one."""
    with open_package(folder) as package:
        spec, choice = package.spec, choose_form(package.spec)
        rng = np.random.default_rng(0)
        feed = random_inputs(spec, rng, batch=1, filled=1.0)
        latent = {"latent": feed["latent"]}
        denoise = onnx.load(str(package.path(spec.graphs[choice.graph("denoise")])))
        sessions = {
            "with": (_session(denoise, choice), feed),
            "without": (_session(without_head(denoise), choice), feed),
            "commit": (_session(_load(package, choice.graph("commit")), choice), feed),
            "decode": (_session(_load(package, "decode"), choice), latent),
        }
        logits = rng.normal(0.0, 2.0, _DECISIONS).tolist()
    parts: dict[str, Callable[[], object]] = {
        name: partial(session.run, None, inputs) for name, (session, inputs) in sessions.items()
    }
    parts["decide"] = _decisions(spec, logits)
    times = _interleaved(parts, rounds)
    median = {name: float(np.median(values)) for name, values in times.items()}
    return StepCosts(
        step_ms=median["without"],
        head_ms=max(float(np.median(times["with"] - times["without"])), 0.0),
        decision_ms=median["decide"] / _DECISIONS,
        commit_ms=median["commit"],
        decode_ms=median["decode"],
        form=choice.form,
        rounds=rounds,
    )


def without_head(denoise: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with the clean estimate as its only output, and without the nodes that it does not need."""
    inputs = [value.name for value in denoise.graph.input]
    return Extractor(denoise).extract_model(inputs, ["clean"])


def _load(package: Package, graph: str) -> onnx.ModelProto:
    return onnx.load(str(package.path(package.spec.graphs[graph])))


def _session(model: onnx.ModelProto, choice: FormChoice) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if choice.library is not None:
        options.register_custom_ops_library(choice.library.path)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _decisions(spec: WorldSpec, logits: Sequence[float]) -> Callable[[], object]:
    """What `Session.step` does between two steps, as often as there are logits."""
    controller = Controller(threshold=spec.calibration.default_threshold)
    plan = controller.plan(ControllerState(), spec.calibration, spec.schedule.steps)

    def decide() -> None:
        for logit in logits:
            controller.wants_more(plan, 1, spec.calibration.confidence(1, logit), 0.0)

    return decide


def _interleaved(parts: dict[str, Callable[[], object]], rounds: int) -> dict[str, np.ndarray]:
    """Milliseconds float64[rounds] of each part; every round begins with another one."""
    names = list(parts)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-_WARM, rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            started = time.thread_time()
            parts[name]()
            if turn >= 0:
                times[name].append((time.thread_time() - started) * 1e3)
    return {name: np.asarray(values) for name, values in times.items()}
