"""The attention benchmark: its forms against the reference, its arithmetic by hand, and one short, tiny run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from dsa_runtime.ops import library
from dsa_runtime.ops.reference import paged_frame_attention
from exporters.model.generator import GeneratorConfig
from tests.bench import bench_attention
from tests.bench.attention_forms import (
    SHAPES,
    Call,
    Form,
    Shape,
    check_forms,
    export_forms,
    paged_feeds,
    require_agreement,
    ring_feeds,
    session_options,
    without_time,
)

TINY = Shape(
    "tiny",
    GeneratorConfig(
        latent_channels=4, latent_height=4, latent_width=4, dim=48, depth=2, heads=3, temporal_dims=8, window=3
    ),
)


@pytest.fixture(scope="module", autouse=True)
def operators() -> None:
    try:
        library.find()
    except library.LibraryMissing as error:
        pytest.skip(str(error))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shape]:
    monkeypatch.setitem(SHAPES, TINY.name, TINY)
    monkeypatch.setattr(bench_attention, "ROUND_MS", 0.5)
    yield TINY


@pytest.fixture(scope="module")
def attention(tmp_path_factory: pytest.TempPathFactory) -> dict[Form, Path]:
    return export_forms(TINY, "attention", tmp_path_factory.mktemp("attention"))


@pytest.mark.parametrize("filled", [0, 1, 3])
def test_every_form_is_the_reference(attention: dict[Form, Path], filled: int) -> None:
    c, paths = TINY.config, attention
    feeds = paged_feeds(TINY, "attention", filled)
    names = ("query", "key", "value", "key_pool_0", "value_pool_0", "slot_table", "slot_age")
    models = [(paths["op"], feeds, c.temporal_dims), (paths["gather"], feeds, c.temporal_dims)]
    models += [(without_time(paths["op"]), feeds, 0), (paths["ring"], ring_feeds(feeds), 0)]
    for path, given, temporal_dims in models:
        expected = paged_frame_attention(*(feeds[n] for n in names), temporal_dims=temporal_dims, theta=c.theta)
        call = Call(path, given, session_options(1))
        for _ in range(2):  # the second call finds the first one's frame in the ring
            call()
            np.testing.assert_allclose(call.outputs["output"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_all_rings_of_a_step_matter(tmp_path: Path) -> None:
    paths = export_forms(TINY, "step", tmp_path)
    feeds = paged_feeds(TINY, "step", 2)
    check_forms(paths, feeds, threads=1)
    given = ring_feeds(feeds)
    ring = Call(paths["ring"], given, session_options(1))
    ring()
    for name in (name for name in given if "_ring_" in name):
        other = Call(paths["ring"], {**given, name: -given[name]}, session_options(1))
        other()
        with pytest.raises(RuntimeError, match="disagree on"):
            require_agreement("changed", other.outputs, "ring", ring.outputs)


def test_the_summary_compares_round_by_round() -> None:
    times: dict[Form, list[list[float]]] = {"op": [[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]], "ring": [[2.0], [6.0], [12.0]]}
    op, ring = bench_attention.summary(times, flops=3_000_000)
    assert (op["p50_ms"], op["ratio"], op["paired_ratio"], op["calls"]) == (2.0, 1.0, 1.0, 6)
    assert (ring["p50_ms"], ring["ratio"], ring["paired_ratio"], ring["calls"]) == (6.0, 3.0, 3.0, 3)
    assert (op["gflops"], ring["gflops"]) == (1.5, 0.5)


def test_every_form_begins_a_round_in_turn() -> None:
    firsts = [next(bench_attention.rotated(("op", "gather", "ring"), turn)) for turn in range(4)]
    assert firsts == ["op", "gather", "ring", "op"]


@pytest.mark.slow
def test_a_short_run_reports_every_row(tiny: Shape, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    arguments = ["--sizes", tiny.name, "--threads", "1", "2", "--rounds", "2", "--profile", "--json", str(file)]
    assert bench_attention.main(arguments) == 0
    printed = capsys.readouterr().out
    line = json.loads(printed.splitlines()[-1])
    assert line == json.loads(file.read_text())
    assert line["commit"] and line["machine"]["cpu"] and line["machine"]["operators"]
    assert line["command"].endswith(" ".join(arguments))
    keys = ("subject", "filled", "threads", "form")
    cases = {
        (subject, filled, threads, form)
        for subject in ("attention", "step")
        for filled in (3, 1)
        for threads in (1, 2)
        for form in ("op", "gather", "ring")
    }
    assert {tuple(row[key] for key in keys) for row in line["rows"]} == cases
    assert len(line["rows"]) == len(cases)
    for row in line["rows"]:
        assert 0 < row["p10_ms"] <= row["p50_ms"] <= row["p90_ms"]
        assert min(row["calls"] - 1, row["ratio"], row["paired_ratio"]) > 0
        assert (row["gflops"] is not None) == (row["subject"] == "attention")
    assert {tuple(row[key] for key in keys) for row in line["profiles"]} == {c for c in cases if c[0] == "step"}
    for row in line["profiles"]:
        assert row["attention_share"] == pytest.approx(row["attention_ms"] / row["total_ms"])
        inside = row["attention_by_operator_ms"].keys()
        expected = {
            "op": {"PagedFrameAttention"}, "ring": {"TensorScatter", "Attention"}, "gather": {"GatherND", "Softmax"}
        }[row["form"]]  # fmt: skip
        assert expected <= inside
        assert not {"PagedFrameAttention", "TensorScatter", "Attention", "GatherND"} & row["rest_by_operator_ms"].keys()
    assert line["matmul_gflops"].keys() == {"1", "2"}
    table_rows = [text for text in printed.splitlines() if text.startswith(("attention  tiny", "step       tiny"))]
    assert len(table_rows) == len(cases)
