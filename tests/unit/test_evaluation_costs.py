"""What the head costs, on the bundled world: the graph without it, and the times that follow."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

import onnx

from dsa_runtime.ort import ort
from dsa_runtime.package import open_package
from exporters.evaluation.allocation.costs import StepCosts, measure_costs, without_head
from exporters.packaging.forms import random_inputs

BUNDLED = Path(__file__).parents[2] / "dsa_runtime" / "worlds" / "defend-the-line"


def test_the_graph_without_a_head_gives_the_same_frame_for_fewer_nodes():
    with open_package(BUNDLED) as package:
        model = onnx.load(str(package.path(package.spec.graphs["denoise"])))
        feed = random_inputs(package.spec, np.random.default_rng(0), batch=2, filled=1.0)
    bare = without_head(model)
    assert [value.name for value in bare.graph.output] == ["clean"]
    assert len(bare.graph.node) < len(model.graph.node) - 20
    whole, part = (
        ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"]) for graph in (model, bare)
    )
    assert np.allclose(whole.run(["clean"], feed)[0], part.run(["clean"], feed)[0], atol=1e-5)


def test_all_parts_of_a_package_are_timed():
    costs = measure_costs(BUNDLED, rounds=6)
    assert costs.rounds == 6 and costs.form in ("op", "plain")
    assert min(costs.step_ms, costs.decision_ms, costs.commit_ms, costs.decode_ms) > 0 and costs.head_ms >= 0
    assert costs.to_json()["head_ratio"] == costs.head_ratio > 1


def test_steps_of_equal_time():
    costs = StepCosts(step_ms=4.0, head_ms=0.3, decision_ms=0.1, commit_ms=3.0, decode_ms=2.0, form="op", rounds=1)
    assert costs.head_ratio == pytest.approx(1.1)
    assert costs.tick_ms(2.0, adaptive=True) == pytest.approx(costs.tick_ms(2.2, adaptive=False)) == pytest.approx(13.8)
