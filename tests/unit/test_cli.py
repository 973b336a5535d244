"""The command line, on the tiny world."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dsa_runtime
from dsa_runtime import World, cli, load_world
from dsa_runtime.commands import info, machine
from tests.bench.bench_tick import main as bench_tick
from tests.command_line import Run, fails, run_dsa
from tests.tiny_world import pack

COMMANDS = tuple(cli.build_parser()[1])


@pytest.fixture
def dsa(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `dsa` with these arguments: exit status, stdout, stderr."""

    return partial(run_dsa, capsys)


@pytest.fixture
def demo(dsa: Run, tiny_package: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run `dsa demo --json` on the tiny world into tmp_path/out; returns the document."""

    def run(*arguments: object) -> dict[str, Any]:
        status, out, _ = dsa("demo", "--world", tiny_package, "--out", tmp_path / "out", "--json", *arguments)
        assert status == 0
        document: dict[str, Any] = json.loads(out)
        return document

    return run


def test_without_arguments_it_prints_help(dsa: Run) -> None:
    status, out, err = dsa()
    assert (status, err) == (0, "")
    for command in COMMANDS:
        assert f"\n    {command}" in out


def test_version(dsa: Run) -> None:
    assert dsa("--version") == (0, f"dsa-runtime {dsa_runtime.__version__}\n", "")


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "record-env"])  # handed on to another program
def test_every_command_has_help(dsa: Run, command: str) -> None:
    status, out, err = dsa(command, "--help")
    assert (status, err) == (0, "")
    assert out.startswith(f"usage: dsa {command}")
    assert ("--json" in out) is (command != "keys"), "but for the subcommands of keys, all of them take it"


def test_demo_writes_film_chart_and_report(demo: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    document = demo("--ticks", 12, "--seed", 3, "--budget-ms", "inf")
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {"demo.gif", "chart.png", "report.json"}
    assert json.loads((out / "report.json").read_text()) == document
    with Image.open(out / "demo.gif") as film, Image.open(out / "chart.png") as chart:
        assert film.n_frames == 12  # type: ignore[attr-defined]
        assert film.width / 384 == pytest.approx(4 / 3)
        assert chart.size == (1600, 1000)
    assert document["ticks"] == sum(document["steps"]["histogram"].values()) == 12
    assert document["seed"] == 3
    assert document["late"]["ticks"] == 0
    assert all(len(values) == 12 for values in document["per_tick"].values())
    assert document["per_tick"]["action"][6:10] == ["fire"] * 4


def test_demo_reports_what_the_session_really_did(demo: Callable[..., dict[str, Any]], tiny_world: World) -> None:
    played = demo("--ticks", 8, "--seed", 5, "--budget-ms", "inf", "--threshold", 0.7)["per_tick"]
    with tiny_world.session(5, threshold=0.7) as session:
        names = tiny_world.spec.to_dict()["action_space"]["names"]
        ticks = [session.step(names.index(name), float("inf")) for name in played["action"]]
    assert played["steps"] == [tick.steps for tick in ticks]
    assert played["threshold"] == [0.7] * 8
    np.testing.assert_allclose(played["confidence"], [tick.confidence for tick in ticks], rtol=1e-5)


def test_demo_says_when_the_budget_was_missed(dsa: Run, tiny_package: Path, tmp_path: Path) -> None:
    arguments = ("--ticks", 5, "--budget-ms", 1e-6, "--out", tmp_path)
    status, out, _ = dsa("demo", "--world", tiny_package, *arguments)
    assert status == 0
    assert "5 of 5 ticks were late" in out
    assert "1.00 of 4 on average; stopped by: budget 5" in out


def test_demo_as_text_has_a_table_and_says_where_the_files_are(dsa: Run, tiny_package: Path, tmp_path: Path) -> None:
    status, out, err = dsa("demo", "--world", tiny_package, "--ticks", 4, "--out", tmp_path / "here")
    assert (status, err) == (0, ""), "progress belongs on a terminal only"
    for word in ("p99", "ticks/s", "decode", "steps", "confidence", str(tmp_path / "here")):
        assert word in out


def test_bench_takes_the_steps_it_names(dsa: Run, tiny_package: Path) -> None:
    status, out, _ = dsa("bench", "--world", tiny_package, "--ticks", 7, "--threads", 1, "--json")
    assert status == 0
    policies = json.loads(out)["policies"]
    assert [entry["policy"] for entry in policies] == ["fixed 1", "fixed 2", "fixed 3", "fixed 4", "adaptive"]
    assert [entry["mean_steps"] for entry in policies[:4]] == [1, 2, 3, 4]
    assert 1 <= policies[4]["mean_steps"] <= 4
    for entry in policies:
        assert entry["ticks_per_s"] > 0
        assert 0 < entry["latency_ms"]["p50"] <= entry["latency_ms"]["p99"] <= entry["latency_ms"]["max"]


def test_bench_as_text(dsa: Run, tiny_package: Path) -> None:
    status, out, _ = dsa("bench", "--world", tiny_package, "--ticks", 5)
    assert status == 0
    assert "fixed 4" in out and "adaptive at threshold 0.50" in out


def test_the_bench_script_adds_one_line_of_json(tiny_package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_tick(["--world", str(tiny_package), "--ticks", "5"]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"machine", "commit", "command", "policies"} <= set(line)


def test_info_lists_versions_and_bundled_worlds(dsa: Run) -> None:
    status, out, _ = dsa("info", "--json")
    assert status == 0
    document = json.loads(out)
    assert document["dsa_runtime"] == dsa_runtime.__version__
    assert "CPUExecutionProvider" in document["providers"]
    assert [world["name"] for world in document["worlds"]] == list(dsa_runtime.bundled_worlds())
    assert document["problems"] == []
    status, text, _ = dsa("info")
    assert status == 0
    assert "operator library" in text and "CPUExecutionProvider" in text


def test_info_describes_one_world(dsa: Run, tiny_package: Path) -> None:
    status, out, _ = dsa("info", tiny_package, "--json")
    world = json.loads(out)
    assert status == 0
    assert (world["name"], world["steps"], world["window"]) == ("tiny", 4, 3)
    assert world["native_budget_ms"] == 50.0
    text = dsa("info", tiny_package)[1]
    assert "8 x 8 at 20 frames/s" in text
    deltas = [f"{delta:.3g} after step {k}" for k, delta in enumerate(world["delta_by_step"], 1)]
    assert (
        len(deltas) == 3 and f"the full schedule's frame than {', '.join(deltas)}; unit: {world['delta_unit']}" in text
    )


def test_info_tells_how_to_repair_an_overwritten_gpu_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "installed", lambda name: True)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    (problem,) = info.describe_runtime()["problems"]
    assert "--force-reinstall" in problem


def test_verify_accepts_a_sound_package_and_its_archive(dsa: Run, tiny_package: Path, tmp_path: Path) -> None:
    for source in (tiny_package, pack(tiny_package, tmp_path / "tiny.dsaworld")):
        status, out, err = dsa("verify", source)
        assert (status, err) == (0, "")
        assert "tiny 0.0.1 is sound" in out
    assert json.loads(dsa("verify", tiny_package, "--json")[1])["ok"] is True


def test_verify_finds_a_world_that_does_not_repeat_itself(
    dsa: Run, tiny_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    with load_world(tiny_package, threads=1) as world:
        size = world.spec.schedule.steps * int(np.prod(world.spec.latent.shape))
    monkeypatch.setattr(
        "dsa_runtime.noise.NoiseSource.draw", lambda self, seed, tick: rng.normal(size=size).astype(np.float32)
    )
    fails(dsa("verify", tiny_package), "two different frames")


@pytest.mark.parametrize("command", [("demo", "--world"), ("bench", "--world"), ("info",), ("verify",)])
def test_a_world_that_is_not_there(dsa: Run, command: tuple[str, ...], tmp_path: Path) -> None:
    fails(dsa(*command, tmp_path / "nowhere", *(["--out", tmp_path] if "demo" in command else [])), "nowhere")


@pytest.mark.parametrize("file", ["weights.bin", "denoise.plain.onnx", "world.json", "seeds.npz"])
def test_a_truncated_file(dsa: Run, package: Path, file: str) -> None:
    content = (package / file).read_bytes()
    (package / file).write_bytes(content[: len(content) // 2])
    fails(dsa("verify", package), file, "dsa info")


def test_a_missing_file(dsa: Run, package: Path) -> None:
    (package / "decode.onnx").unlink()
    fails(dsa("verify", package), "decode.onnx", "missing")


def test_a_problem_in_json(dsa: Run, tmp_path: Path) -> None:
    status, out, err = dsa("verify", tmp_path / "nowhere", "--json")
    assert status == 2
    document = json.loads(out)
    assert document["ok"] is False
    assert document["error"] in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--budget-ms", "-1"), ("budget_ms", "greater than 0")),
        (("--budget-ms", "nan"), ("budget_ms",)),
        (("--budget-ms", "soon"), ("--budget-ms", "soon", "--help")),
        (("--threshold", "7"), ("threshold", "[0, 1]")),
        (("--threads", "0"), ("threads",)),
        (("--seed", "-1"), ("seed",)),
        (("--ticks", "0"), ("--ticks", "at least 1")),
        (("--tick", "many"), ("many",)),
        (("--frobnicate",), ("--frobnicate",)),
    ],
)
def test_arguments_out_of_range(
    dsa: Run, tiny_package: Path, tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    fails(dsa("demo", "--world", tiny_package, "--out", tmp_path, *arguments), *words)


def test_an_unknown_command(dsa: Run) -> None:
    fails(dsa("frobnicate"), "frobnicate", "--help")


def test_an_output_folder_that_cannot_be_made(dsa: Run, tiny_package: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fails(dsa("demo", "--world", tiny_package, "--out", tmp_path / "file"), "file", "--out")


def test_an_interrupt_ends_it_quietly(dsa: Run, tiny_package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dsa_runtime.world.load_world", interrupt)
    assert dsa("verify", tiny_package) == (130, "", "")


def test_a_reader_that_leaves_early_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "dsa_runtime.cli", "info"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()  # long before the command has anything to write
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=120) == 0
