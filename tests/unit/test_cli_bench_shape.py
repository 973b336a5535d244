"""`dsa bench --shape`: what is predicted, how it is headed, and what is refused."""

from __future__ import annotations

import json
from functools import partial

import pytest

from dsa_runtime.cost import this_cpu
from tests.command_line import Run, fails, run_dsa


@pytest.fixture
def dsa(capsys: pytest.CaptureFixture[str]) -> Run:
    return partial(run_dsa, capsys)


def test_the_text_says_first_that_nothing_was_measured(dsa: Run) -> None:
    status, out, _ = dsa("bench", "--shape", "wan-1.3b", "--gpu-hour", 2.5, "--players", 20)
    assert status == 0
    assert out.startswith("PREDICTED, NOT MEASURED: wan-1.3b on h100-sxm, bf16\n")
    for word in (
        "1,419.0 M parameters",
        "denoising step",
        "commit",
        "decode, small",
        "2.29",
        "published",
        "devices for 20",
    ):
        assert word in out


def test_the_document_adds_up(dsa: Run) -> None:
    arguments = ("--device", "h200", "--precision", "fp8", "--fps", 24, "--mean-steps", 3, "--gpu-hour", 2, "--json")
    document = json.loads(dsa("bench", "--shape", "wan-1.3b", *arguments)[1])
    assert document["predicted"] is True and document["published"] is None
    stages = {row["stage"]: row for row in document["stages"]}
    for row in stages.values():
        assert row["ms"] == pytest.approx(row["compute_ms"] + row["memory_ms"] + row["launch_ms"])
        assert row["roofline_ms"] < row["ms"]
    step, commit, decode = (stages[name]["ms"] for name in ("denoising step", "commit", "decode, small"))
    assert sum(row["ms"] for row in document["step"]) == pytest.approx(step)
    ticks = {(row["decoder"], row["steps"]): row for row in document["ticks"]}
    assert ticks["small", 4]["latency_ms"] == pytest.approx(4 * step + decode)
    assert ticks["none", 2]["fps"] == pytest.approx(12e3 / (2 * step + commit))
    assert ticks["full", 1]["fps_low"] < ticks["full", 1]["fps"] < ticks["full", 1]["fps_high"]
    assert [row["efficiency"] for row in document["capacity"]["rows"]] == ["low", "usual", "high"] * 2
    assert (document["capacity"]["fps"], document["capacity"]["steps"]) == (24, 3)
    for row in document["capacity"]["rows"]:
        assert row["sessions"] == 0 or row["session_hour"] == pytest.approx(2 / row["sessions"])


def test_this_cpu_is_measured_when_asked_for(dsa: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(this_cpu, "_SIDE", 64)
    monkeypatch.setattr(this_cpu, "_COPIED", 1 << 16)
    document = json.loads(dsa("bench", "--shape", "defend-the-line", "--device", "this-cpu", "--json")[1])
    assert (
        document["precision"] == "fp32" and min(document["device"]["flops"]["fp32"], document["device"]["memory"]) > 0
    )
    for row in document["stages"]:
        assert row["ms"] == row["roofline_ms"] > 0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--device", "h200"), "device: expected cpu, cuda or cuda:N, got 'h200'"),
        (("--gpu-hour", 2), "--gpu-hour: is for predictions"),
        (("--shape", "wan-1.3b", "--world", "x"), "--world: a world is measured"),
        (("--shape", "wan-2b"), "--shape wan-2b: neither one of wan-1.3b, wan-14b, defend-the-line nor"),
        (("--shape", "wan-1.3b", "--device", "abacus"), "--device: expected one of h100-sxm"),
        (("--shape", "wan-1.3b", "--precision", "int3"), "--precision: h100-sxm is known in bf16"),
        (("--shape", "wan-1.3b", "--mean-steps", 5), "--mean-steps: must lie in 1..4 for wan-1.3b, got 5"),
        (("--shape", "wan-1.3b", "--fps", 0), "--fps: must be more than 0"),
        (("--shape", "wan-1.3b", "--gpu-hour", "nan"), "--gpu-hour: must be more than 0"),
        (("--shape", "wan-1.3b", "--players", 3), "--players: needs the price"),
    ],
)
def test_what_makes_no_sense_is_refused(dsa: Run, arguments: tuple[object, ...], problem: str) -> None:
    fails(dsa("bench", *arguments), problem)
