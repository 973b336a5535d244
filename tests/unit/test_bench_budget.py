"""The benchmarks: their arithmetic by hand, and each of them once, short, on the tiny world."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsa_runtime.doctor.load import busy_processes
from dsa_runtime.tick import LatencyMs
from tests.bench import bench_budget, bench_memory, bench_sweep
from tests.bench.bench_budget import MeanCost, Record, edges, fits, oracle_steps, sustained_steps, wilson

KEEP_BUSY_AND_DIE = """
import os, signal
from dsa_runtime.doctor.load import busy_processes
with busy_processes(2) as pids:
    print(*pids, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def cost(
    *denoise: float, wait: float = 0.0, decode: float = 2.0, sdk: float = 0.5, abandoned: float = 0.0
) -> LatencyMs:
    total = wait + sum(denoise) + abandoned + decode + sdk
    return LatencyMs(wait=wait, denoise=denoise, abandoned=abandoned, decode=decode, sdk=sdk, total=total)


@pytest.mark.parametrize(
    ("spent", "budget_ms", "steps"),
    [
        (cost(3.0, 3.0, 3.0, 3.0), 100.0, 4),
        (cost(3.0, 3.0, 3.0, 3.0), 14.5, 4),  # to the last microsecond, without a margin
        (cost(3.0, 3.0, 3.0, 3.0), 14.4, 3),
        (cost(3.0, 3.0, 3.0, 3.0), 8.5, 2),
        (cost(3.0, 3.0, 3.0, 3.0), 1.0, 1),  # the first step is always run
        (cost(3.0, 3.0, wait=3.0), 11.5, 2),
        (cost(3.0, 3.0, wait=3.0), 11.4, 1),
        (cost(3.0), 14.5, 4),  # steps not taken cost the mean of those taken
        (cost(3.0), 14.4, 3),
        (cost(2.0, 4.0), 11.5, 3),
        (cost(2.0, 4.0), 11.4, 2),
        (cost(2.0, 4.0, abandoned=5.0), 11.5, 3),  # it would not have begun that one, or else finished it
    ],
)
def test_the_oracle_takes_what_fits(spent: LatencyMs, budget_ms: float, steps: int) -> None:
    assert oracle_steps(spent, budget_ms, schedule_steps=4) == steps


@pytest.mark.parametrize(
    ("period_ms", "commit_ms", "steps"),
    [
        (20.0, 5.5, [4, 4, 4]),  # 14.5 + 5.5: free again just in time
        (20.0, 8.0, [4, 3, 4]),  # the second waits 2.5 ms, gives up a step and so is done before the third
        (20.0, 30.0, [4, 1, 1]),
        (1000.0, 30.0, [4, 4, 4]),
    ],
)
def test_the_sustained_oracle_waits_for_its_own_commits(period_ms: float, commit_ms: float, steps: list[int]) -> None:
    recorded = cost(3.0, 3.0, wait=9.0)  # our own waits do not matter
    records = [Record(7e6 + tick * period_ms, 0.0, 17.5, "ok", "budget", 2, recorded) for tick in range(3)]
    assert sustained_steps(records, commit_ms, budget_ms=16.5, schedule_steps=4) == steps


def test_a_tick_is_hopeless_when_its_first_step_does_not_fit() -> None:
    spent = cost(3.0, 1.0, wait=1.0)
    assert fits(spent, 6.5)
    assert not fits(spent, 6.4)


def test_wilson_interval_of_known_cases() -> None:
    assert wilson(0, 3000) == pytest.approx((0.0, 0.001279), abs=1e-6)
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    low, high = wilson(3, 3000)
    assert wilson(2997, 3000) == pytest.approx((1 - high, 1 - low))


def test_blocks_cover_every_tick_once() -> None:
    for ticks in (1, 7, 10, 3001):
        blocks = edges(ticks)
        assert [tick for start, end in blocks for tick in range(start, end)] == list(range(ticks))
        assert len(blocks) == min(ticks, 10)


def test_mean_cost_answers_with_the_mean() -> None:
    mean = MeanCost(warmup=0)
    assert mean.quantile("decode", 0.99) is None
    for value in (1.0, 2.0, 6.0):
        mean.record("decode", value)
    assert mean.quantile("decode", 0.99) == pytest.approx(3.0)


def test_grey_levels_do_not_wrap_around() -> None:
    dark, light = np.full((2, 2, 3), 3, np.uint8), np.full((2, 2, 3), 250, np.uint8)
    assert bench_sweep.grey_levels(dark, light) == bench_sweep.grey_levels(light, dark) == 247.0


def test_growth_is_that_after_the_first_tenth() -> None:
    samples = [
        {"tick": tick, "rss_bytes": (0 if tick < 10_000 else 9000) + tick} for tick in range(5000, 100_001, 5000)
    ]
    assert bench_memory.growth_per_10k(samples) == pytest.approx(1e4)
    assert bench_memory.growth_per_10k(samples[:1]) == 0.0


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def eventually(condition: Any, seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


@linux
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, None])
def test_busy_processes_are_busy_and_end_with_the_block(error: type[BaseException] | None) -> None:
    try:
        with busy_processes(2) as pids:
            assert len(set(pids)) == 2
            assert all(eventually(lambda pid=pid: cpu_seconds(pid) > 0.03) for pid in pids)
            if error is not None:
                raise error
    except (RuntimeError, KeyboardInterrupt) as raised:
        assert type(raised) is error
    for pid in pids:
        assert not Path(f"/proc/{pid}").exists()  # also reaped


@linux
def test_busy_processes_end_by_themselves_when_their_parent_is_killed() -> None:
    result = subprocess.run(
        [sys.executable, "-c", KEEP_BUSY_AND_DIE], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert result.returncode == -signal.SIGKILL, result.stderr
    pids = [int(pid) for pid in result.stdout.split()]
    assert len(pids) == 2
    assert eventually(lambda: not any(map(alive, pids)))


def test_no_load_is_no_process() -> None:
    with busy_processes(0) as pids:
        assert pids == ()


@pytest.fixture
def short_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (bench_budget, bench_sweep):
        monkeypatch.setattr(module, "WARM_UP_TICKS", 1)


pytestmark = pytest.mark.usefixtures("short_warm_up")


def run(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, *arguments: str) -> dict[str, Any]:
    """Run a benchmark; the document of its last line."""
    main = importlib.import_module(f"tests.bench.bench_{name}").main
    file = tmp_path / f"{name}.json"
    given = [*arguments, "--threads", "1", "--json", str(file)]
    assert main(given) == 0
    line = capsys.readouterr().out.rstrip("\n").splitlines()[-1]
    assert file.read_text() == line + "\n"
    document: dict[str, Any] = json.loads(line)
    assert document["command"].startswith(f"python -m tests.bench.bench_{name} {arguments[0]}")
    assert document["world"] == {"name": "tiny", "version": "0.0.1"}
    assert document["commit"]
    assert document["machine"]["cores"] >= 1
    return document


def test_budget_bench(tiny_package: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    document = run(
        "budget", capsys, tmp_path,
        "--world", str(tiny_package), "--ticks", "23", "--rates", "400", "800", "--loads", "0", "1",
    )  # fmt: skip
    assert [(one["load"], one["rate_hz"]) for one in document["sets"]] == [(0, 400), (0, 800), (1, 400), (1, 800)]
    for one in document["sets"]:
        rows = {row["policy"]: row for row in one["policies"]}
        assert list(rows) == ["fixed 1", "fixed 2", "fixed 3", "fixed 4", "mean", "q99", "ours"]
        for row in rows.values():
            assert row["ticks"] == sum(row["status"].values()) == sum(row["steps"].values()) == 23
            assert row["status"].get("ok", 0) == 23 - row["misses"] or row["late_by_own_clock"]
            low, high = row["miss_interval"]
            assert low <= row["miss_share"] <= high
            assert 1 <= row["mean_steps"] <= 4
        for steps in range(1, 5):
            assert rows[f"fixed {steps}"]["steps"] == {str(steps): 23}
        assert 1 <= rows["ours"]["sustained_oracle_steps"] <= 4
        assert 1 <= rows["ours"]["oracle_steps"] <= 4
        assert "deadline" not in rows["q99"]["stopped_by"]  # it has no watchdog


def test_budget_bench_of_some_policies(tiny_package: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    document = run(
        "budget", capsys, tmp_path, "--world", str(tiny_package), "--ticks", "5", "--rates", "400", "--loads", "0",
        "--policies", "q99", "ours", "--quantiles", "0.5",
    )  # fmt: skip
    assert [row["policy"] for row in document["sets"][0]["policies"]] == ["q99", "ours", "ours, q 0.5"]


def test_budget_bench_in_the_real_time_class(
    tiny_package: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    document = run(
        "budget", capsys, tmp_path, "--world", str(tiny_package), "--ticks", "5", "--rates", "200", "--loads", "1",
        "--policies", "ours", "--scheduling", "normal", "fifo",
    )  # fmt: skip
    classes = [one["scheduling"] for one in document["sets"]]
    assert classes in (["normal"], ["normal", "fifo"])  # where it is not permitted it is left out
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_sweep_bench(tiny_package: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    document = run(
        "sweep", capsys, tmp_path, "--world", str(tiny_package), "--ticks", "1", "--budgets", "0.01", "400",
        "--policies", "fixed", "--on-miss", "best_effort", "repeat",
    )  # fmt: skip
    rows = {(row["on_miss"], row["budget_ms"]): row for row in document["rows"]}
    assert len(rows) == 4
    for on_miss in ("best_effort", "repeat"):
        ample, none = rows[on_miss, 400.0], rows[on_miss, 0.01]
        assert ample["mean_steps"] == 4.0
        assert ample["grey_levels"]["max"] == 0.0  # the full schedule's picture itself, from the same past
        assert ample["ok_share"] == 1.0
        assert none["grey_levels"]["mean"] > 0.0
        assert none["ok_share"] == 0.0
    assert rows["best_effort", 0.01]["mean_steps"] == 1.0
    assert rows["repeat", 0.01]["mean_steps"] is None


def test_overhead_bench(tiny_package: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    document = run("overhead", capsys, tmp_path, "--world", str(tiny_package), "--ticks", "2", "--rates", "200")
    rows = [(row["pace"], row["steps"]) for row in document["rows"]]
    assert len(rows) == len(set(rows)) == 3 * 5
    assert {"back to back", "native 20 Hz", "200 Hz"} == {pace for pace, _ in rows}
    for row in document["rows"]:
        assert 0 < row["sdk_ms"]["p50"] < row["total_ms"]["max"]
        assert row["around_ms"]["p50"] >= 0


def test_branches_bench(tiny_package: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    document = run(
        "branches", capsys, tmp_path, "--world", str(tiny_package), "--ticks", "4", "--branches", "3", "--history", "2"
    )
    assert list(document["times_ms"]) == [
        "fork(3)", "a branch's first tick", "snapshot", "restore", "rewind(1)", "rewind(2)",
    ]  # fmt: skip
    assert all(one["first"] > 0 and one["max"] >= one["p50"] for one in document["times_ms"].values())
    before, after = document["slots_before_and_after_a_fork"]
    assert before == after
    assert document["slots_that_forks_filled"] == 0
    assert document["slots_after_each_branch_took_a_tick"] == after + 3
    assert document["snapshot_bytes"] > 0


@linux
def test_memory_bench(tiny_package: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    document = run("memory", capsys, tmp_path, "--ticks", "40", "--every", "10", "--history", "2")
    assert [one["tick"] for one in document["samples"]] == [10, 20, 30, 40]
    for one in document["samples"]:
        assert one["rss_bytes"] > 1 << 20
        assert one["threads"] >= 2
        assert one["pools"] == 1
    assert isinstance(document["growth_bytes_per_10k_ticks"], float)
