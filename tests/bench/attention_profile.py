"""Where a run's time goes, by ONNX Runtime's own profile: its attention, and everything else."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tests.bench.attention_forms import Call, session_options

CONTEXT = ("slot_", "ring_index")
"""How the names of the inputs begin that say where the context is, which nothing but the attention reads."""


def profile(model: Path, feeds: Mapping[str, np.ndarray], threads: int, runs: int) -> dict[str, Any]:
    """Milliseconds of kernels in a run, as means: in all, of the attention, and by operator of each.

    Profiling adds to every operator, so look at the shares.
    """
    optimized = model.with_suffix(f".optimized-{threads}.onnx")
    options = session_options(threads)
    options.optimized_model_filepath = str(optimized)
    options.enable_profiling = True
    options.profile_file_prefix = str(model.with_suffix(""))
    call = Call(model, feeds, options)
    for _ in range(runs + 1):
        call()
    events = json.loads(Path(call.session.end_profiling()).read_text())
    times: dict[str, list[float]] = {}
    operator: dict[str, str] = {}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            times.setdefault(name, []).append(event["dur"] / 1000)
            operator[name] = event["args"]["op_name"]
    inside = attention_nodes(onnx.load(optimized, load_external_data=False).graph)
    if not inside <= times.keys():
        raise RuntimeError(f"the profile does not know {sorted(inside - times.keys())}")
    attention_ms: defaultdict[str, float] = defaultdict(float)
    rest_ms: defaultdict[str, float] = defaultdict(float)
    for name, durations in times.items():
        part = attention_ms if name in inside else rest_ms
        part[operator[name]] += float(np.mean(durations[1:]))  # the first run warms up
    attention, rest = sum(attention_ms.values()), sum(rest_ms.values())
    return {
        "total_ms": attention + rest,
        "attention_ms": attention,
        "attention_share": attention / (attention + rest),
        "attention_by_operator_ms": longest_first(attention_ms),
        "rest_by_operator_ms": longest_first(rest_ms),
    }


def attention_nodes(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes that compute with the context, up to each layer's output projection."""
    constants = {tensor.name for tensor in graph.initializer}
    reached = {value.name for value in graph.input if value.name.startswith(CONTEXT)}
    names = set()
    for node in graph.node:  # in topological order
        projection = node.op_type in ("MatMul", "Gemm", "FusedMatMul") and not constants.isdisjoint(node.input)
        if not projection and not reached.isdisjoint(node.input):
            reached.update(node.output)
            names.add(node.name)
    return names


def longest_first(by_operator: Mapping[str, float]) -> dict[str, float]:
    """The same, sorted."""
    return dict(sorted(by_operator.items(), key=lambda item: item[1], reverse=True))
